"""Splitting networks of every make at their norm layers and stages, and GAIA and S&I on them."""

from functools import cache, partial

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, gelu, relu

from oodattack.classifier import Classifier
from oodattack.detectors.gaia_a import GaiaA
from oodattack.detectors.gaia_z import GaiaZ
from oodattack.detectors.layer_gradients import norms, per_channel
from oodattack.detectors.si_a import SIA
from oodattack.detectors.si_z import SIZ
from oodattack.detectors.soft_density import SoftDensity
from oodattack.models.small import SmallResNet


class PreActivation(nn.Module):
    """Norm and functional, in-place ReLU before each convolution, skips around both."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.norm3, self.fc = nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, x):
        h = self.stem(x)
        h = h + self.conv1(relu(self.norm1(h), inplace=True))
        h = h + self.conv2(relu(self.norm2(h)))
        return self.fc(relu(self.norm3(h)).mean((2, 3)))


class LayerNorm2d(nn.LayerNorm):
    """Channels first, as in convolutional networks after ConvNeXt."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ChannelsLast(nn.Module):
    """Patches as in ConvNeXt: a norm that permutes inside, then a block with its norm on the last dimension."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(3, 8, 4, stride=4), LayerNorm2d(8)  # 8 x 8 positions of 8 channels
        self.depthwise, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.LayerNorm(8)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm3, self.fc = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x):
        h = self.norm1(self.stem(x))
        block = self.narrow(gelu(self.wide(self.norm2(self.depthwise(h).movedim(1, -1)))))
        return self.fc(self.norm3((h + block.movedim(-1, 1)).mean((2, 3))))


def group_norms():
    parts = [nn.Conv2d(3, 6, 3, stride=2), nn.GroupNorm(2, 6), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, stride=2)]
    return nn.Sequential(*parts, nn.GroupNorm(4, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


class BatchNormAct(nn.BatchNorm2d):
    """Norm and ReLU in one module, as timm has them."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.drop(batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)))


class LayerNormAct(nn.LayerNorm):
    """The same with the channels in the last dimension."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class Split(nn.Module):
    """Convolutions with norms and ReLUs that are one module or two; one norm has its channels last."""

    def __init__(self, fused):
        super().__init__()
        two = lambda norm: nn.Sequential(norm, nn.ReLU())
        self.conv1, self.norm1 = nn.Conv2d(3, 6, 3, 2), BatchNormAct(6) if fused else two(nn.BatchNorm2d(6))
        self.conv2, self.norm2 = nn.Conv2d(6, 8, 3, 2), LayerNormAct(8) if fused else two(nn.LayerNorm(8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        h = self.conv2(self.norm1(self.conv1(x)))
        return self.fc(self.norm2(h.movedim(1, -1)).mean((1, 2)))


def resnet18():
    from torchvision.models import resnet18

    return resnet18(num_classes=5)


def densenet():
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=5)


def convnext():
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], layer_scale=0.5, num_classes=5)


NETWORKS = {
    "small": lambda: SmallResNet(3, 5, width=4),
    "resnet18": resnet18,
    "densenet": densenet,
    "pre-activation": PreActivation,
    "group norms": group_norms,
    "channels last": ChannelsLast,
    "convnext": convnext,
    "norms with activations": lambda: Split(fused=True),
    "norms without": lambda: Split(fused=False),
}
EVERY = pytest.mark.parametrize("name", NETWORKS)
X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@cache
def classifier(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)):
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.uniform_(module.weight, 0.5, 1.5)  # with equal weights, a last norm's outputs have a constant sum
    return Classifier(network.eval())


def stages(net):
    try:
        return net.stages()
    except ValueError:
        return []


@EVERY
def test_replacing_an_output_by_itself_changes_nothing(name):
    net = classifier(name)
    with torch.no_grad():
        logits, layers = net(X), [*net.norm_layers(), *stages(net)]
        clean = net.run(X, watch=layers)
        torch.testing.assert_close(clean.logits, logits, rtol=0, atol=1e-5)
        for layer in layers:
            split = net.run(X, replace={layer: clean.outputs[layer].clone()})
            torch.testing.assert_close(split.logits, logits, rtol=0, atol=1e-5)
        together = net.run(X, replace=clean.outputs)
        torch.testing.assert_close(together.logits, logits, rtol=0, atol=1e-5)


@EVERY
def test_replacing_an_output_by_another_does_something(name):
    # every norm layer reaches the logits, so the test above is not about hooks that do nothing
    net = classifier(name)
    with torch.no_grad():
        clean = net.run(X, watch=net.norm_layers())
        for layer, z in clean.outputs.items():
            other = net.run(X, replace={layer: z.flip(0)}).logits  # of the other image
            assert (other - clean.logits).abs().max() > 1e-6


@EVERY
def test_watched_outputs_are_those_of_the_layer_before_anything_in_place(name):
    net = classifier(name)
    modules, layers, seen = dict(net.network.named_modules()), net.norm_layers(), {}
    keep = lambda n: lambda _module, _args, out: seen.update({n: out.clone()})
    with torch.no_grad():
        handles = [modules[n].register_forward_hook(keep(n)) for n in layers]
        net(X)
        for handle in handles:
            handle.remove()
        outputs = net.run(X, watch=layers).outputs
    assert all(torch.equal(outputs[n], seen[n]) for n in layers)
    assert all((outputs[n] < 0).any() for n in layers)  # a ReLU in place would have taken these


@EVERY
def test_replacing_the_input_of_the_head_by_itself_changes_nothing(name):
    net = classifier(name)
    with torch.no_grad():
        clean = net.run(X)
        again = net.run(X, head_input=clean.features)
        torch.testing.assert_close(again.logits, clean.logits, rtol=0, atol=1e-5)
        assert torch.equal(again.features, clean.features)
        doubled = net.run(X, head_input=2 * clean.features).logits
    head = net.network.get_submodule(net.head)
    torch.testing.assert_close(doubled, head(2 * clean.features), rtol=0, atol=1e-5)


@EVERY
@pytest.mark.parametrize("build", [GaiaZ, GaiaA, SIZ, SIA])
def test_gaia_and_si_run(name, build):
    net = classifier(name)
    detector = build(net)
    with torch.no_grad():
        clean = net.run(X, watch=detector.layers).outputs
    pairs = zip(clean.values(), norms(net, list(clean)), strict=True)
    channels = sum(per_channel(h, norm).shape[1] for h, norm in pairs)
    score, latent = detector(X), detector.latent(X)
    assert score.shape == (2,) and score.isfinite().all() and (score > 0).all()
    assert latent.shape == (2, channels)
    if build in (GaiaZ, SIZ):
        assert (latent >= 0).all() and (latent <= 1).all()


def test_channels_of_norms_with_and_without_channels_last():
    # norm1 (8 channels first), norm2 (8 last, of 8 x 8 positions), norm3 (8, no positions)
    net = classifier("channels last")
    outputs = net.run(X, watch=net.norm_layers()).outputs
    assert [tuple(h.shape) for h in outputs.values()] == [(2, 8, 8, 8), (2, 8, 8, 8), (2, 8)]
    assert GaiaZ(net).latent(X).shape == (2, 24)
    # by hand for norm2: average of the gradient of the summed features over the positions, channel by channel
    z = outputs["norm2"].detach().requires_grad_()
    (g,) = torch.autograd.grad(net.run(X, replace={"norm2": z}).features.sum(), z)
    inner = GaiaA(net, layers=["norm2"]).latent(X)
    wanted = g.mean((1, 2)).abs()
    torch.testing.assert_close(inner / inner.sum(1, keepdim=True), wanted / wanted.sum(1, keepdim=True))


@pytest.mark.parametrize("name", ["small", "resnet18", "pre-activation"])
def test_steep_soft_density_is_the_density(name):
    # module and function ReLUs, in place or not, before and after the addition of the skip
    net = classifier(name)
    # resnet18: without the stem, whose gradient the max pooling thins out, and without maps of 2 x 2 or 1 x 1
    layers = tuple(net.norm_layers()[1:10] if name == "resnet18" else net.norm_layers())
    soft, hard = SoftDensity(net, layers, beta=1e6).latent(X), GaiaZ(net, layers=layers).latent(X)
    assert (soft - hard).abs().mean() < 0.002
    assert soft.std() > 0.05  # not all open or shut


@pytest.mark.parametrize("build", [GaiaZ, GaiaA, SIZ, SIA])
def test_norms_with_activations_are_looked_at_in_front_of_these(build):
    fused, split = classifier("norms with activations"), classifier("norms without")
    assert fused.norm_layers() == ["norm1.drop", "norm2.drop"] and split.norm_layers() == ["norm1.0", "norm2.0"]
    mine, other = build(fused), build(split)
    torch.testing.assert_close(mine.latent(X), other.latent(X))
    torch.testing.assert_close(mine.surrogate.latent(X), other.surrogate.latent(X))


def timm_bit():
    """A small ResNetV2 as the BiT networks are: group norms with ReLUs, and a convolution as head."""
    from timm.layers import GroupNormAct
    from timm.models.resnetv2 import ResNetV2

    norm = partial(GroupNormAct, num_groups=4)
    return ResNetV2((1, 1), (32, 64), num_classes=5, stem_chs=16, stem_type="fixed", norm_layer=norm)


def timm_densenet():
    from timm.models.densenet import DenseNet

    return DenseNet(growth_rate=8, block_config=(2, 2), num_classes=5)


@pytest.mark.parametrize(("build", "head"), [(timm_bit, "head.fc"), (timm_densenet, None)])
def test_gaia_on_norms_of_timm(build, head):
    pytest.importorskip("timm", reason="its norms have activations in them")
    torch.manual_seed(0)
    net = Classifier(build().eval(), head=head)
    for norm in norms(net, net.norm_layers()):
        nn.init.normal_(norm.bias, -0.2, 0.2)
    assert len(net.norm_layers()) > 5 and all(n.endswith(".drop") for n in net.norm_layers())
    with torch.no_grad():
        z = net.run(X, watch=net.norm_layers()).outputs
    assert all((h < 0).any() for h in z.values())
    score = GaiaZ(net)(X)
    torch.testing.assert_close(GaiaZ(net).surrogate.score(X).detach(), score, rtol=0.3, atol=0)
    assert (score < 0.8).all()  # behind their ReLUs it is 0.9 and more


def test_late_norm_layers_and_stages_of_torchvision_networks():
    resnet, dense = classifier("resnet18"), classifier("densenet")
    late = resnet.late_norm_layers()
    assert len(resnet.norm_layers()) == 20  # stem 1, four stages of two blocks with two norms, three shortcuts
    assert len(late) == 10 and all(name.startswith(("layer3.", "layer4.")) for name in late)
    assert "layer3.0.downsample.1" in late
    assert resnet.stages() == ["relu", "layer1", "layer2", "layer3", "layer4"]
    assert dense.stages() == ["features.denseblock1", "features.denseblock2"]
    # of timm's ResNets the stem's ReLU is called act1
    made = resnet18()
    made.act1 = made.relu
    del made.relu
    assert Classifier(made).stages() == ["act1", "layer1", "layer2", "layer3", "layer4"]
    # without stages, the second half
    assert classifier("pre-activation").late_norm_layers() == ["norm2", "norm3"]
    assert classifier("group norms").late_norm_layers() == ["4"]
