"""The score of an image does not depend on which images it is scored with, nor on how many; for every detector."""

from functools import cache

import pytest
import torch
from small_rows import NETWORKS, ROWS, every, network_for
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors import DETECTORS, Fit

EVERY = every()
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
# Signed sums that nearly cancel, and distances where features hardly vary, make much of the rounding of
# a convolution, which differs with the size of a batch. In float64 they keep to the tolerance like all others.
ROUGH = {"gram": 10, "mahalanobis-layers": 10, "mahalanobis-weighted": 10}  # times the tolerance of float32
MANY = 10
SIDE = {"ccu": 16}  # pixels; its metric is a matrix of all pixels times all pixels


@cache
def classifier(name, dtype, seed=0):
    torch.manual_seed(seed)
    network = network_for(name, 3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return Classifier(network.to(dtype).eval(), mean=[0.5, 0.45, 0.4], std=[0.25, 0.2, 0.3])


@cache
def built(name, dtype):
    """A detector of the table on a network of random weights, or on two."""
    seeds = (0, 1) if DETECTORS[name].several else (0,)
    nets = [classifier(name if name in NETWORKS else "", dtype, seed) for seed in seeds]
    fit = Fit(images(48, 1, dtype, name), torch.arange(48) % 3, images(32, 5, dtype, name).sqrt())
    return ROWS[name].on(nets, fit)


@cache
def images(rows, seed, dtype, name=""):
    """Noise of varied colour."""
    generator, side = torch.Generator().manual_seed(seed), SIDE.get(name, 32)
    level = torch.rand(rows, 3, 1, 1, generator=generator, dtype=torch.float64)
    return (level * torch.rand(rows, 3, side, side, generator=generator, dtype=torch.float64)).to(dtype)


def callables(detector):
    """Name -> the score, the latent, and those of the surrogate."""
    stand_in = getattr(detector, "surrogate", None)
    found = {"score": detector, "latent": detector.latent}
    if stand_in is not None:
        found |= {"surrogate": stand_in.score, "surrogate's latent": stand_in.latent}
    return {what: f for what, f in found.items() if f is not None}


def allowed(name, dtype, tolerance):
    return tolerance * (ROUGH.get(name, 1) if dtype == torch.float32 else 1)


def in_batches(f, x, size):
    with torch.no_grad():
        return torch.cat([f(rows) for rows in x.split(size)])


@EVERY
@DTYPES
def test_batch_sizes_make_no_difference(name, dtype, tolerance):
    x, limit = images(MANY, 2, dtype, name), allowed(name, dtype, tolerance)
    for what, f in callables(built(name, dtype)).items():
        whole = in_batches(f, x, MANY)
        exact = torch.float64 if name.startswith("odin") and what == "score" else dtype
        assert whole.dtype == exact and len(whole) == MANY and whole.isfinite().all(), what
        for size in (1, 3, 7):
            found = in_batches(f, x, size)
            torch.testing.assert_close(found, whole, rtol=limit, atol=limit, msg=lambda m, w=what: f"{w}: {m}")


@EVERY
@DTYPES
def test_other_images_make_no_difference(name, dtype, tolerance):
    # the same three images among black ones, among white ones and in another order
    x = images(3, 3, dtype, name)
    black, white, limit = torch.zeros_like(x), torch.ones_like(x), allowed(name, dtype, tolerance)
    for what, f in callables(built(name, dtype)).items():
        with torch.no_grad():
            alone = f(x)
            found = [f(torch.cat([x, black]))[:3], f(torch.cat([white, x]))[3:], f(x[[2, 0, 1]])[[1, 2, 0]]]
        for one in found:
            torch.testing.assert_close(one, alone, rtol=limit, atol=limit, msg=lambda m, w=what: f"{w}: {m}")


@EVERY
@DTYPES
def test_gradients_do_not_depend_on_the_batch(name, dtype, tolerance):
    # what an attack on one image follows is the same when others are attacked beside it
    detector, x = built(name, dtype), images(5, 4, dtype, name)
    stand_in = getattr(detector, "surrogate", None)
    score = stand_in.score if stand_in else detector

    def gradient(rows):
        leaf = rows.clone().requires_grad_()
        return torch.autograd.grad(score(leaf).sum(), leaf)[0]

    whole = gradient(x)
    single = torch.cat([gradient(row[None]) for row in x])
    scale = whole.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
    assert ((single - whole).abs() <= (1e-3 if dtype == torch.float32 else 1e-8) * scale + tolerance**2).all()


@EVERY
@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_are_refused(name, channels):
    x = torch.rand(2, channels, SIDE.get(name, 32), SIDE.get(name, 32))
    for f in callables(built(name, torch.float32)).values():
        with pytest.raises(ValueError, match=r"must have (3|1 or 3|shape|images of shape)"):
            f(x)


@every([name for name, row in DETECTORS.items() if row.fits and not row.bare])
def test_images_of_other_channels_are_not_fitted_on(name):
    row, x = ROWS[name], torch.rand(24, 1, SIDE.get(name, 32), SIDE.get(name, 32))
    nets = [classifier(name if name in NETWORKS else "", torch.float32, seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match="must have"):
        row.on(nets, Fit(x, torch.arange(24) % 3, x.sqrt()))
