"""What holds for every set that is drawn afresh."""

import pytest
import torch

from oodattack.data.checkerboards import checkerboards
from oodattack.data.far_mix import far_mix
from oodattack.data.noise import gaussian_noise, noise
from oodattack.data.photos import photos
from oodattack.data.spirals import spirals

FAMILIES = {f.__name__: f for f in (photos, noise, gaussian_noise, spirals, checkerboards, far_mix)}
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@families
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 33])
def test_images_have_the_format_asked_for(family, channels, size):
    x = family(4, channels=channels, size=size, seed=0)
    assert x.shape == (4, channels, size, size)
    assert x.dtype == torch.float32
    assert ((x >= 0) & (x <= 1)).all()


@families
def test_a_row_does_not_depend_on_how_many_are_drawn(family):
    assert torch.equal(family(9, channels=1, size=16, seed=3)[:4], family(4, channels=1, size=16, seed=3))


@families
def test_rows_and_seeds_give_different_images(family):
    x = torch.cat([family(100, channels=1, size=16, seed=seed) for seed in (0, 1)])
    apart = torch.cdist(x.flatten(1).double(), x.flatten(1).double()).fill_diagonal_(torch.inf)
    assert apart.min() > 1e-3  # an l2 distance of 1e-3 would be a change of 1/4000 in every pixel


@families
def test_global_random_state_is_left_alone(family):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    family(1, channels=1, size=8, seed=0)
    assert torch.equal(before, torch.get_rng_state())


@families
def test_no_image_is_an_error(family):
    with pytest.raises(ValueError, match="`n` must be >= 1, got 0"):
        family(0, channels=1, size=8, seed=0)


def test_noise_is_uniform():
    x = noise(100, channels=1, size=32, seed=0).flatten().double()
    # standard error of the mean sqrt(1/12/102400) = 0.0009; the variance of U[0, 1) is 1/12
    assert x.mean().item() == pytest.approx(0.5, abs=0.005)
    assert x.var().item() == pytest.approx(1 / 12, abs=0.002)


def test_gaussian_noise_is_cut_at_half_a_deviation():
    x = gaussian_noise(100, channels=1, size=32, seed=0).flatten().double()
    # P(N(1/2, 1) <= 0) = Phi(-1/2) = 0.308538; as many are above 1, so the mean stays 1/2
    assert (x == 0).double().mean().item() == pytest.approx(0.3085, abs=0.005)
    assert (x == 1).double().mean().item() == pytest.approx(0.3085, abs=0.005)
    assert x.mean().item() == pytest.approx(0.5, abs=0.005)


def test_far_mix_takes_families_in_turn():
    x = far_mix(10, channels=3, size=16, seed=5)
    for k, family in enumerate((photos, noise, spirals, checkerboards)):
        own = family(3, channels=3, size=16, seed=5)
        assert torch.equal(x[k::4], own[: len(x[k::4])])
