"""Images to fit on from a tensor and from loaders: the same detectors, and nothing more in memory than a batch."""

import weakref
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from oodattack.classifier import Classifier
from oodattack.detectors.batches import batches, labelled
from oodattack.detectors.dice import fit_dice
from oodattack.detectors.energy import Energy
from oodattack.detectors.gram import fit_gram
from oodattack.detectors.line import fit_line
from oodattack.detectors.mahalanobis import fit_mahalanobis
from oodattack.detectors.mahalanobis_layers import fit_mahalanobis_layers
from oodattack.detectors.react import fit_react
from oodattack.detectors.si_z import SIZ
from oodattack.detectors.weighted_sum import fit_weighted_sum
from oodattack.models.small import SmallResNet

X = torch.rand(50, 1, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
X = X * torch.linspace(0.2, 1, 50, dtype=torch.float64).view(-1, 1, 1, 1)
Y = torch.arange(50) % 3
NONE = nn.Module()


@cache
def small():
    torch.manual_seed(0)
    network = SmallResNet(1, 3, width=4).double()
    nn.init.normal_(network.head.weight)
    return Classifier(network.eval())


def summed(x, **options):
    return fit_weighted_sum({"si-z": SIZ(small(), layers=["stem.1"]), "energy": Energy(small())}, x, **options)


UNLABELLED = {
    "react": lambda x, **options: fit_react(small(), x, **options),
    "dice": lambda x, **options: fit_dice(small(), x, **options),
    "gram": lambda x, **options: fit_gram(small(), x, **options),
    "weighted sum": summed,
}
LABELLED = {
    "mahalanobis": lambda *data, **options: fit_mahalanobis(small(), *data, **options),
    "mahalanobis-layers": lambda *data, **options: fit_mahalanobis_layers(small(), *data, **options),
    "line": lambda *data, **options: fit_line(small(), *data, clip=0.05, **options),
}
FITS = {
    **LABELLED,
    **{name: lambda x, y=None, fit=fit, **options: fit(x, **options) for name, fit in UNLABELLED.items()},
}
EVERY = pytest.mark.parametrize("name", FITS)


class Watched:
    """A loader of one image after another that knows how many of its batches are alive."""

    def __init__(self, size=5):
        self.size, self.alive, self.most, self.rounds = size, weakref.WeakSet(), 0, 0

    def __iter__(self):
        self.rounds += 1
        for start in range(0, len(X), self.size):
            rows = X[start : start + self.size].clone()
            self.alive.add(rows)
            self.most = max(self.most, len(self.alive))
            yield rows, Y[start : start + self.size]
            del rows


@EVERY
def test_a_loader_fits_what_a_tensor_fits(name):
    fit, images = FITS[name], X[:7] * 0.7
    wanted = fit(X, Y)
    loaders = [DataLoader(TensorDataset(X, Y), batch_size=8), list(zip(X.split(3), Y.split(3), strict=True))]
    if name not in LABELLED:
        loaders += [DataLoader(TensorDataset(X), batch_size=8), list(X.split(20)), [[rows] for rows in X.split(20)]]
    for x in loaders:
        found = fit(x)
        torch.testing.assert_close(found(images), wanted(images), rtol=1e-6, atol=1e-12)
        for key, tensor in wanted.state_dict().items():
            if tensor.dtype == torch.float64:
                torch.testing.assert_close(found.state_dict()[key], tensor, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(fit(X, Y, batch_size=7)(images), wanted(images), rtol=1e-6, atol=1e-12)


@EVERY
def test_images_go_by_one_batch_at_a_time(name):
    loader = Watched()
    FITS[name](loader)
    assert loader.most <= 2 and loader.rounds <= 3  # the next one is made while the last one still has a name


@EVERY
def test_what_cannot_be_fitted_on_is_named(name):
    fit = FITS[name]
    with pytest.raises(ValueError, match="`x` must have images to fit on, got 0"):
        fit([])
    with pytest.raises(ValueError, match="`x` must have images to fit on, got 0"):
        fit(X[:0], Y[:0])
    with pytest.raises(ValueError, match=r"`x` must be images in \[0, 1\], got values of type torch.uint8"):
        fit((255 * X).to(torch.uint8), Y)
    with pytest.raises(ValueError, match=r"`x` must yield tensors or \(images, labels\), got a dict"):
        fit([{"x": X}])
    if name in LABELLED:
        with pytest.raises(ValueError, match="`y` must be the labels of the images, got none"):
            fit(X)
        with pytest.raises(ValueError, match="`y` must be the labels of the images, got none"):
            fit(DataLoader(TensorDataset(X), batch_size=8))
        with pytest.raises(ValueError, match="`y` must be left out where `x` yields batches, got both"):
            fit(DataLoader(TensorDataset(X, Y), batch_size=8), Y)
        with pytest.raises(ValueError, match="must have one label an image, got 3 labels for 4 images"):
            fit([(X[:4], Y[:3])])


def test_gram_goes_through_a_loader_twice_in_one_order():
    generator = torch.Generator().manual_seed(0)
    shuffled = DataLoader(TensorDataset(X), batch_size=8, shuffle=True, generator=generator)
    with pytest.raises(ValueError, match="`x` must yield the same images in the same order every time"):
        fit_gram(small(), shuffled)
    with pytest.raises(ValueError, match="`x` must have images to fit on, got 0"):
        fit_gram(small(), iter(X.split(8)), layers=["layer1"])  # empty the second time


def test_gram_holds_out_the_same_images_whatever_the_batches():
    # of 50, the 2nd, 12th, ...; the scales are theirs alone
    wanted = fit_gram(small(), X)
    rest = torch.cat([X[:1], X[2:11], X[12:21], X[22:31], X[32:41], X[42:]])
    held = X[1::10]
    assert (wanted(rest) == 0).all() and (wanted(held) > 0).any()
    for sizes in (1, 2, 11):
        assert fit_gram(small(), list(X.split(sizes))).scales == pytest.approx(wanted.scales, rel=1e-9)


def test_line_and_mahalanobis_count_every_image_once():
    # class means of batches of different sizes are not averaged as if they were equal: 9 images and 1
    x, y = torch.cat([X[:9], 0 * X[:1]]), torch.zeros(10, dtype=torch.int64)
    uneven = [(x[:9], y[:9]), (x[9:], y[9:])]
    torch.testing.assert_close(fit_mahalanobis(small(), uneven).means, small().features(x).mean(0, keepdim=True))


def test_batches_of_a_tensor():
    found = list(batches(X, Y, net=NONE, batch_size=20))
    assert [len(rows) for rows, _ in found] == [20, 20, 10]
    assert torch.equal(torch.cat([rows for rows, _ in found]), X)
    assert torch.equal(torch.cat([labels for _, labels in found]), Y)
    assert [labels for _, labels in batches(X, net=NONE, batch_size=50)] == [None]


def test_batches_of_an_iterable_are_taken_as_they_come():
    pairs = [(X[:3], [0, 1, 2]), [X[3:4], Y[3:4]]]
    found = list(labelled(pairs, net=NONE, batch_size=2))
    assert [len(rows) for rows, _ in found] == [3, 1] and found[0][1].tolist() == [0, 1, 2]
    assert found[0][1].dtype == torch.int64
    assert [labels for _, labels in batches([X[:3], (X[3:4],)], net=NONE)] == [None, None]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: batches(X, net=NONE, batch_size=0), "`batch_size` must be >= 1, got 0"),
        (lambda: batches(X, Y[:5], net=NONE), "got 5 labels for 50 images"),
        (lambda: batches([(X, Y[:, None])], net=NONE), r"got shape \(50, 1\) of labels for 50 images"),
        (lambda: batches([(X, Y, Y)], net=NONE), r"`x` must yield tensors or \(images, labels\), got a tuple of 3"),
        (lambda: batches([([1, 2], Y)], net=NONE), r"`x` must yield tensors or \(images, labels\), got a tuple of 2"),
        (lambda: batches(["cat"], net=NONE), r"`x` must yield tensors or \(images, labels\), got a str"),
        (lambda: labelled(X, Y.double(), net=NONE), "`y` must be whole numbers, got values of type torch.float64"),
    ],
)
def test_wrong_use_of_batches_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        list(call())
