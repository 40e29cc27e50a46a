"""Higher means more OOD, for every detector, where the answer is known."""

from collections import OrderedDict

import pytest
import torch
from small_rows import ROWS, every
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors import DETECTORS, Fit
from oodattack.detectors.gaia_a import GaiaA
from oodattack.detectors.mahalanobis_layers import fit_mahalanobis_layers
from oodattack.detectors.si_a import SIA

pytestmark = pytest.mark.usefixtures("any_pixels")


def chain(head, **modules):
    """A float64 classifier: the named modules, then a linear head without bias of the given weight."""
    weight = torch.tensor(head, dtype=torch.float64)
    linear = nn.Linear(weight.shape[1], len(weight), bias=False, dtype=torch.float64)
    linear.weight.data = weight
    return Classifier(nn.Sequential(OrderedDict(**modules, head=linear)).double().eval())


def opposed():
    """Logits (4 a - 4 b, 4 b - 4 a) of the two pixels (a, b): confident where they differ."""
    return chain([[4.0, -4.0], [-4.0, 4.0]], flat=nn.Flatten())


def gated():
    """One channel: norm that subtracts 0.5, ReLU, mean over positions z, logits (4 z, -4 z)."""
    norm = nn.BatchNorm2d(1)
    norm.running_mean.fill_(0.5)
    return chain([[4.0], [-4.0]], norm=norm, relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())


def clusters():
    """Training data around pixels (0, 0) and (1, 0)."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(20) % 2
    centre = torch.stack([y.double(), torch.zeros(20, dtype=torch.float64)], dim=1)
    return (centre + 0.05 * torch.randn(20, 2, generator=generator, dtype=torch.float64)).view(20, 2, 1, 1), y


def pixels(*values, shape=(1, 2, 1, 1)):
    return torch.tensor(values, dtype=torch.float64).view(shape)


CONFIDENT, UNDECIDED = pixels(1, 0), pixels(0.5, 0.5)
NEAR, FAR = pixels(1, 0.05), pixels(0.5, 1)
OUTLIERS = torch.stack([torch.full((20,), 0.5), torch.linspace(0.5, 1, 20)], dim=1).double().view(20, 2, 1, 1)
SHUT, OPEN = pixels(1, 0, 0, 0, shape=(1, 1, 2, 2)), pixels(1, 1, 0.9, 0.8, shape=(1, 1, 2, 2))
BRIGHT, DIM = torch.ones(1, 1, 2, 2).double(), torch.full((1, 1, 2, 2), 0.55).double()  # all open; DIM is undecided
OF_LOGITS = dict.fromkeys(
    ("msp", "max-logit", "energy", "odin", "odin-tuned", "oe-score", "outlier-class", "ensemble", "gradnorm", "react",
     "dice", "jem-px", "jem-py"),
    (opposed, CONFIDENT, UNDECIDED),
)  # fmt: skip
OF_LOGITS["confident"] = (lambda: chain([[4.0, -4.0], [-4.0, 4.0]], features=nn.Flatten()), CONFIDENT, UNDECIDED)
OF_DISTANCE = {
    **dict.fromkeys(("mahalanobis", "knn", "vim", "pnml", "ccu"), (opposed, NEAR, FAR)),
    "auto-encoder": (lambda: None, NEAR, FAR),
    "mahalanobis-layers": (
        lambda: chain([[4.0, -4.0], [-4.0, 4.0]], layer1=nn.Identity(), layer2=nn.Identity(), flat=nn.Flatten()),
        NEAR,
        FAR,
    ),
}
OF_DISTANCE["mahalanobis-weighted"] = OF_DISTANCE["mahalanobis-layers"]
OF_ZEROS = dict.fromkeys(("gaia-z", "si-z"), (gated, SHUT, OPEN))
OF_AVERAGES = dict.fromkeys(("gaia-a", "si-a"), (gated, BRIGHT, DIM))


def two_gates():
    """Two channels: norm, ReLU, logits (4 a - 4 b, 4 b - 4 a)."""
    return chain([[4.0, -4.0], [-4.0, 4.0]], norm=nn.BatchNorm2d(2), relu=nn.ReLU(), flat=nn.Flatten())


# more open positions and a smaller logit; Gram sums of (0.5, 1) lie outside those of either cluster
def map_of_two():
    """Two channels by two positions; logits (5 (a + d), 0) of the map [[a, b], [c, d]]."""
    return chain([[5.0, 0.0, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0]], layer1=nn.Identity(), flat=nn.Flatten())


OF_MAPS = {  # nothing is left of a map of rank one
    "rankfeat": (map_of_two, pixels(0.9, 0, 0, 0.9, shape=(1, 2, 1, 2)), pixels(*[0.9] * 4, shape=(1, 2, 1, 2)))
}
# 4 (2 p - 1) (1, -1) with p the larger softmax: 0 where both are 1/2, so that the confident image is the OOD one
OF_GRADIENTS = {"jem-gradient": (opposed, UNDECIDED, CONFIDENT)}


class TwoExits(nn.Module):
    """Two exits with the logits of `opposed`."""

    def __init__(self):
        super().__init__()
        self.inner = opposed().network

    def exits(self, x):
        return [self.inner(x)] * 2

    def forward(self, x):
        return self.inner(x)


def mapped():
    """`opposed` behind a stage: the Grad-CAM map of class c is one number, the logit of c."""
    return chain([[4.0, -4.0], [-4.0, 4.0]], layer1=nn.Identity(), flat=nn.Flatten())


def slopes():
    """Pictures whose brightness changes slowly from side to side, shape (24, 1, 8, 8)."""
    level, across, down = torch.rand(3, 24, 1, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.linspace(0, 1, 8, dtype=torch.float64)
    return 0.2 + 0.3 * level + 0.25 * across * t + 0.25 * down * t[:, None]


PNG = {"shape": (1, 1, 1, 2)}  # a file has no picture of two channels
OF_PICTURES = {
    "mood": (lambda: Classifier(TwoExits().eval()), pixels(1, 0, **PNG), pixels(0.5, 0.5, **PNG)),
    **dict.fromkeys(("glow", "glow-png"), (lambda: None, slopes()[:1], pixels(*[1.0, 0.0] * 32, shape=(1, 1, 8, 8)))),
}
# ID images have the longer maps, so S = 1: maps of length 4 and 0
OF_SALIENCY = {"sal-agg": (mapped, CONFIDENT, UNDECIDED), "sal-agg+mls": (two_gates, CONFIDENT, UNDECIDED)}
OF_BOTH = {"si-z+max-logit": (two_gates, CONFIDENT, UNDECIDED), "gram": (two_gates, NEAR, FAR)}
KNOWN = {
    **OF_LOGITS,
    **OF_DISTANCE,
    **OF_ZEROS,
    **OF_AVERAGES,
    **OF_BOTH,
    **OF_MAPS,
    **OF_GRADIENTS,
    **OF_PICTURES,
    **OF_SALIENCY,
}  # detector -> network, ID input, OOD input


def test_every_detector_has_a_known_case():
    assert set(KNOWN) == set(DETECTORS) - {"line"}  # a tenth of two features is none: see test_clipped


FITTED_ON = {"mood": clusters()[0].view(20, 1, 1, 2), "glow": slopes(), "glow-png": slopes()}  # else on the clusters


@every(KNOWN)
def test_ood_scores_higher(name):
    network, x_id, x_ood = KNOWN[name]
    row, (x, y) = ROWS[name], clusters()
    x = FITTED_ON.get(name, x)
    detector = row.on([network(), network()], Fit(x, y, OUTLIERS))
    margin = 1e-4 if name in ("odin", "odin-tuned") else 0.01  # T = 1000 squeezes the scores
    assert detector(x_ood).item() > detector(x_id).item() + margin


@pytest.mark.parametrize("build", [GaiaA, lambda net: SIA(net, keep=1.0)])
def test_gaia_a_is_larger_where_the_average_gradient_is_larger(build):
    # the same omega (same z = 0.25, by hand below), more open positions: average 4/4 * 1/4 against 1/4 * 1/4
    # z: four times 0.25 against one time 1.0, norm scale 1 up to 1e-5
    few, all_ = pixels(1.5, 0, 0, 0, shape=(1, 1, 2, 2)), pixels(0.75, 0.75, 0.75, 0.75, shape=(1, 1, 2, 2))
    detector = build(gated())
    assert (detector(all_) / detector(few)).item() == pytest.approx(16, rel=1e-3)


def test_distances_are_of_the_preprocessed_input_and_smaller_for_it():
    # the step moves each input towards its nearest class, so no distance grows
    net = KNOWN["mahalanobis-layers"][0]()
    still = fit_mahalanobis_layers(net, *clusters(), layers=["layer1"], magnitude=0.0)
    moved = fit_mahalanobis_layers(net, *clusters(), layers=["layer1"], magnitude=0.01)
    assert moved(FAR).item() < still(FAR).item()
