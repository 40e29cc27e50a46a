"""Every detector of pytorch-ood on one small trained network, on 3 x 16 x 16 images."""

from functools import cache

import torch
from pytorch_ood import detector as po
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SIZE, CLASSES = 16, 4
WIDTH = 12


def images(n, *, ood=False, seed=0):
    """Images (n, 3, 16, 16) and classes (n,): a coloured wave a class on grey, OOD images are of another wave."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    line = torch.linspace(0, 2 * torch.pi, SIZE)
    waves = torch.stack([line.cos(), line.sin(), (2 * line).cos(), (2 * line).sin(), (3 * line).cos()])
    colours = torch.eye(3)[[0, 1, 2, 0]]
    pattern = torch.einsum("nc,nh,w->nchw", colours[y], waves[torch.full_like(y, 4) if ood else y], torch.ones(SIZE))
    return (0.5 + 0.2 * pattern + 0.1 * torch.randn(n, 3, SIZE, SIZE, generator=generator)).clamp(0, 1), y


class Net(nn.Module):
    """Two convolutions with ReLU, dropout, a linear head."""

    def __init__(self):
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(8, WIDTH, 3, 2, 1), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2))
        self.fc = nn.Linear(WIDTH, CLASSES)

    def maps(self, x):
        return self.block2(self.block1(x))

    def features(self, x):
        return self.pool(self.maps(x))

    def head(self, maps):
        return self.fc(self.pool(maps))

    def forward(self, x):
        return self.head(self.maps(x))


@cache
def network():
    """Trained to tell the classes apart, in eval mode; weights are left trainable, as users leave them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, (x, y) = Net(), images(64, seed=1)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(30):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
        optimiser.zero_grad()
    return net.eval()


def loader():
    return DataLoader(TensorDataset(*images(96, seed=2)), batch_size=48)


@cache
def built(name):
    """A detector on the network, fitted."""
    net = network()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BUILD[name](net).to("cpu").fit(loader())


def on_maps(kind, **options):
    return lambda net: kind(net.maps, net.head, **options)


def last_layer(kind, **options):
    return lambda net: kind(net.features, w=net.fc.weight, b=net.fc.bias, **options)


def on_head(kind, **options):
    return lambda net: kind(net.features, net.fc, **options)


def on_logits(kind, **options):
    return lambda net: kind(net, **options)


def on_features(kind, **options):
    return lambda net: kind(net.features, **options)


BUILD = {
    "ASH": on_maps(po.ASH),
    "DICE": last_layer(po.DICE, p=0.5),
    "EnergyBased": on_logits(po.EnergyBased),
    "Entropy": on_logits(po.Entropy),
    "GEN": on_logits(po.GEN),
    "GMM": on_features(po.GMM, reg=1e-3),
    "GradNorm": on_logits(po.GradNorm),
    "GradUncertainty": on_logits(po.GradUncertainty),
    "Gram": lambda net: po.Gram(nn.Sequential(net.pool, net.fc).eval(), [net.block1, net.block2], CLASSES, [1, 2, 3]),
    "KLMatching": on_logits(po.KLMatching),
    "KNN": on_features(po.KNN, k=5),
    "LTS": on_head(po.LTS, p=0.3),
    "MCD": on_logits(po.MCD, samples=6),
    "MCM": on_features(po.MCM, text_embeddings=torch.eye(CLASSES, WIDTH) + 0.1, temperature=0.05),
    "Mahalanobis": on_features(po.Mahalanobis),
    "MahalanobisODIN": on_features(po.MahalanobisODIN),
    "MaxLogit": on_logits(po.MaxLogit),
    "MaxSoftmax": on_logits(po.MaxSoftmax),
    "MultiMahalanobis": lambda net: po.MultiMahalanobis([net.block1, net.block2]),
    "NACUE": lambda net: po.NACUE(net, [net.block1, net.block2], m_bins=20, o_star=5),
    "NCI": on_head(po.NCI, alpha=0.01),
    "NNGuide": on_head(po.NNGuide, k=5),
    "ODIN": on_logits(po.ODIN),
    "OpenMax": on_logits(po.OpenMax, tailsize=10, alpha=3, euclid_weight=0.7),
    "PNML": on_head(po.PNML),
    "RMD": on_features(po.RMD),
    "RankFeat": on_maps(po.RankFeat),
    "ReAct": on_maps(po.ReAct),
    "SCALE": on_maps(po.SCALE),
    "SHE": on_head(po.SHE),
    "TemperatureScaling": on_logits(po.TemperatureScaling),
    "VRA": on_maps(po.VRA),
    "ViM": last_layer(po.ViM, d=4),
    "WeightedEBO": on_logits(po.WeightedEBO, weights=torch.tensor([1.0, 0.5, 2.0, 1.0])),
    "fDBD": on_head(po.fDBD),
}
