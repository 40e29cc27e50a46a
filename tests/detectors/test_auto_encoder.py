"""Reconstruction error: by hand, and why matching the code makes an image stand out."""

import math

import pytest
import torch
from torch import nn

from oodattack.detectors.auto_encoder import AutoEncoder, Reconstruction, fit_auto_encoder

SIZES = {"code": 6, "width": 4, "steps": 200}


def slopes(rows=32, *, size=8, seed=1, channels=1):
    """Pictures whose brightness changes slowly from side to side."""
    generator = torch.Generator().manual_seed(seed)
    level, across, down = torch.rand(3, rows, channels, 1, 1, generator=generator)
    t = torch.linspace(0, 1, size)
    return 0.2 + 0.3 * level + 0.25 * across * t + 0.25 * down * t[:, None]


def noise(rows=8, *, size=8):
    return torch.rand(rows, 1, size, size, generator=torch.Generator().manual_seed(2))


class Half(nn.Module):
    """D(E(x)) = x / 2, with the mean as code."""

    def encode(self, x):
        return x.mean((1, 2, 3))[:, None]

    def forward(self, x):
        return x / 2


@pytest.fixture(scope="module")
def fitted():
    return fit_auto_encoder(slopes(), seed=0, **SIZES)


@pytest.mark.parametrize(("p", "expected"), [(1.0, 3.5), (2.0, 2.5), (math.inf, 2.0)])
def test_error_by_hand(p, expected):
    # x = (3, 4), reconstructed as (1.5, 2): differences 1.5 and 2
    x = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    assert Reconstruction(Half(), p=p)(x).tolist() == [expected]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (1, 28, 28), (2, 1, 1)])
def test_reconstructions_have_the_shape_of_any_image(shape):
    network, x = AutoEncoder(shape, code=5, width=2), torch.rand(3, *shape)
    assert network.encode(x).shape == (3, 5) and network(x).shape == x.shape
    assert torch.equal(network(x), network.decode(network.encode(x)))


def test_id_images_are_reconstructed_and_others_are_not(fitted):
    before = Reconstruction(AutoEncoder((1, 8, 8), code=6, width=4))
    mine, others = fitted(slopes(16, seed=5)), fitted(noise())
    assert mine.max() < others.min() and mine.mean() < 0.4 * others.mean()
    assert mine.mean() < 0.5 * before(slopes(16, seed=5)).mean()


def test_a_matched_code_makes_an_image_stand_out(fitted):
    # section 2.4: with z_out = z_in the reconstruction is that of the ID image, and the error is the distance to it
    x_id, x = slopes(1, seed=9), noise(1).requires_grad_()
    adam = torch.optim.Adam([x], lr=0.02)
    for _ in range(300):
        adam.zero_grad()
        (fitted.latent(x) - fitted.latent(x_id).detach()).square().sum().backward()
        adam.step()
    x = x.detach()
    torch.testing.assert_close(fitted.latent(x), fitted.latent(x_id), atol=2e-2, rtol=0)
    assert fitted(x).item() == pytest.approx((x - fitted.auto_encoder(x_id)).norm().item(), rel=0.02)
    assert fitted(x) > 3 * fitted(x_id)


def test_the_seed_decides_and_the_global_random_state_is_left_alone():
    state = torch.random.get_rng_state()
    few = SIZES | {"steps": 5}
    first, again, other = (fit_auto_encoder(slopes(), seed=seed, **few)(noise()) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    batches = [slopes()]  # come in one order, so that the weights alone are drawn
    assert not torch.equal(*(fit_auto_encoder(batches, seed=seed, **few)(noise()) for seed in (0, 1)))
    assert torch.equal(state, torch.random.get_rng_state())


def test_type_is_that_of_the_images_and_batches_will_do():
    few = SIZES | {"steps": 6}
    x = slopes()
    plain = fit_auto_encoder([x[:20], x[20:]], seed=0, **few)
    labelled = fit_auto_encoder([(x[:20], torch.zeros(20).long()), (x[20:], torch.ones(12).long())], seed=0, **few)
    double = fit_auto_encoder([x[:20].double(), x[20:].double()], seed=0, **few)
    assert torch.equal(plain(noise()), labelled(noise()))
    assert double(noise().double()).dtype == torch.float64
    torch.testing.assert_close(double(noise().double()).float(), plain(noise()), rtol=1e-5, atol=1e-6)


def test_what_cannot_be(fitted):
    with pytest.raises(ValueError, match=r"`x` must have images of shape \(1, 8, 8\), got \(1, 9, 9\)"):
        fitted(noise(2, size=9))
    with pytest.raises(ValueError, match=r"`p` must be >= 1, got 0\.5"):
        Reconstruction(Half(), p=0.5)
    with pytest.raises(ValueError, match="`steps` must be >= 2, got 1"):
        fit_auto_encoder(slopes(), seed=0, steps=1)
    with pytest.raises(ValueError, match="`code` must be >= 1, got 0"):
        AutoEncoder((1, 8, 8), code=0)
    with pytest.raises(ValueError, match="`x` must have images to fit on, got 0"):
        fit_auto_encoder(slopes()[:0], seed=0)
