"""A flow, its likelihood as a score, and likelihood against complexity."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodattack.detectors.glow import GlowNLL, fit_glow
from oodattack.detectors.glow_flow import Glow, bits_per_dim, padded
from oodattack.detectors.glow_png import GlowPNG
from oodattack.detectors.png_length import PngLength, png_bits
from oodattack.detectors.weighted_sum import WeightedSum

EVERY = pytest.mark.parametrize("kind", [GlowNLL, GlowPNG])
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
SMALL = {"levels": 2, "steps": 1, "hidden": 4}


def new(channels=1, **sizes):
    """An untrained flow: couplings and priors return zeros, actnorms and their like do nothing."""
    torch.manual_seed(0)
    return Glow(channels, **{**SMALL, **sizes}).eval()


def shaken(channels=1, **sizes):
    """A flow of random weights, float64."""
    flow = new(channels, **sizes).double()
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return flow


def smooth_images(rows, *, size=16, channels=1, seed=1, dtype=torch.float32):
    """Brightness that changes slowly from side to side, of many kinds."""
    generator = torch.Generator().manual_seed(seed)
    a, b, c = torch.rand(3, rows, channels, 1, 1, generator=generator, dtype=torch.float64)
    t = torch.linspace(0, 1, size, dtype=torch.float64)
    return (0.2 + 0.3 * a + 0.25 * b * t + 0.25 * c * t[:, None]).to(dtype)


def noise(rows, *, size=16, channels=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    return torch.rand(rows, channels, size, size, generator=generator, dtype=torch.float64).to(dtype)


@pytest.fixture(scope="module")
def fitted():
    return fit_glow(smooth_images(48), seed=0, levels=2, steps=2, hidden=8, epochs=8)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("n_bits", [5, 8])
def test_bits_of_an_untrained_flow_by_hand(levels, n_bits):
    # an orthogonal map of v and a standard normal prior: sum (v^2 + log 2 pi) / (2 log 2) plus n_bits a pixel. Level
    # 128 is q = 16 of 32, or 128 of 256; v = (16 + 1/2) / 32 - 1/2 = 1/64, or (128 + 1/2) / 256 - 1/2 = 1/512
    x = torch.full((2, 1, 8, 8), 128 / 255, dtype=torch.float64)
    v = {5: 1 / 64, 8: 1 / 512}[n_bits]
    expected = n_bits + (v**2 + math.log(2 * math.pi)) / (2 * math.log(2))
    found = GlowNLL(new(levels=levels, n_bits=n_bits).double())(x)
    assert found.tolist() == pytest.approx([expected] * 2, rel=1e-6)  # library draws its map in float32


def pushed(flow, v):
    """What the flow makes of v, standardised by the priors: a map between spaces of one dimension."""
    parts, shape = [], (1, flow.channels, 4, 4)
    h = v.view(shape)
    for i, (flows, prior) in enumerate(zip(flow.flows, flow.priors, strict=True)):
        h = flow.squeeze.inverse(h)[0]
        for step in flows:
            h = step.inverse(h)[0]
        h, z = h.chunk(2, 1) if i + 1 < flow.levels else (torch.zeros_like(h), h)
        mean, log_std = prior(h).chunk(2, 1)
        parts.append(((z - mean) / log_std.exp()).flatten())
    return torch.cat(parts)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(("channels", "levels"), [(1, 1), (1, 2), (3, 2)])
def test_density_is_that_of_a_change_of_variables(affine, channels, levels):
    # log p(v) = log N(z; 0, I) + log |det dz/dv|, the Jacobian by autograd
    flow = shaken(channels, levels=levels, steps=2, affine=affine)
    v = torch.rand(channels * 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64) - 0.5
    z = pushed(flow, v)
    volume = torch.linalg.slogdet(torch.autograd.functional.jacobian(lambda u: pushed(flow, u), v))[1]
    log_p = -(z.square() + math.log(2 * math.pi)).sum() / 2 + volume
    torch.testing.assert_close(flow(v.view(1, channels, 4, 4))[0], -log_p / math.log(2), rtol=1e-9, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 255), st.integers(1, 8), st.sampled_from([torch.float32, torch.float64]))
def test_a_bin_holds_the_levels_of_its_bits_and_no_others(level, n_bits, dtype):
    seen = []
    flow = new(n_bits=n_bits)
    flow.forward = lambda v: seen.append(v) or v.flatten(1).sum(1)
    bits_per_dim(flow, torch.full((1, 1, 4, 4), level / 255, dtype=dtype))
    q = level // 2 ** (8 - n_bits)  # for whole numbers, without rounding
    assert ((seen[0] + 0.5) * 2**n_bits - 0.5 - q).abs().max() < 1e-4


def test_gradient_passes_through_the_roundings_and_is_that_of_the_smooth_likelihood_in_the_surrogate():
    # 3.5 is the middle of the first bin's levels 0..7, where both see the same v
    flow = shaken()
    for level, same in ((3.5, True), (0.0, False)):
        x = torch.full((1, 1, 4, 4), level / 255, dtype=torch.float64).requires_grad_()
        (hard,) = torch.autograd.grad(bits_per_dim(flow, x).sum(), x)
        (soft,) = torch.autograd.grad(bits_per_dim(flow, x, smooth=True).sum(), x)
        (used,) = torch.autograd.grad(GlowNLL(flow).surrogate.score(x).sum(), x)
        assert torch.equal(used, soft) and hard.abs().max() > 0
        assert ((hard - soft).abs().max() <= 1e-9) == same
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda u: bits_per_dim(flow, u, smooth=True), x.requires_grad_(), atol=1e-6)


def test_training_makes_its_images_likely_and_others_not(fitted):
    mine, held_out = fitted(smooth_images(48)), fitted(smooth_images(20, seed=7))
    before = GlowNLL(new(steps=2, hidden=8))(smooth_images(48))
    assert mine.mean() < before.mean() - 2.5 and held_out.mean() < before.mean() - 2.5
    assert fitted(noise(20)).min() > held_out.max() + 2


def test_the_seed_decides_and_the_global_random_state_is_left_alone():
    x, sizes = smooth_images(8, size=8), {**SMALL, "epochs": 1, "batch_size": 4}
    state = torch.random.get_rng_state()
    first, again, other = (fit_glow(x, seed=seed, **sizes)(x) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


def test_types_of_the_images_decide_the_type_only():
    # trained in float32 either way
    x, sizes = smooth_images(8, size=8), {**SMALL, "epochs": 2, "batch_size": 4}
    single, double = fit_glow(x, seed=0, **sizes), fit_glow(x.double(), seed=0, **sizes)
    torch.testing.assert_close(single(x).double(), double(x.double()), rtol=1e-4, atol=0)


def test_images_may_come_in_batches_with_labels():
    x, sizes = smooth_images(8, size=8), {**SMALL, "epochs": 2}
    loader = [(x[:4], torch.zeros(4).long()), (x[4:], torch.ones(4).long())]
    plain = fit_glow([x[:4], x[4:]], seed=0, **sizes)
    assert torch.equal(fit_glow(loader, seed=0, **sizes)(x), plain(x))


@pytest.mark.parametrize(("channels", "size", "levels"), [(1, 28, 3), (3, 30, 2), (1, 9, 2)])
def test_other_sizes_are_filled_up_with_black(channels, size, levels):
    flow, x = new(channels, levels=levels), noise(2, size=size, channels=channels)
    full = padded(x, levels)
    assert full.shape[2] % 2**levels == 0 and full.shape[2] - size < 2**levels
    assert torch.equal(full[:, :, :size, :size], x) and full.sum() == pytest.approx(x.sum().item(), rel=1e-5)
    whole = bits_per_dim(flow, full) * full[0].numel() / x[0].numel()  # bits of the same image, a dimension of x
    torch.testing.assert_close(bits_per_dim(flow, x), whole)


def test_score_against_complexity_is_the_weighted_sum(fitted):
    x = torch.cat([smooth_images(3), noise(3)])
    both, alone = GlowPNG(fitted.flow), GlowNLL(fitted.flow)
    torch.testing.assert_close(both(x), alone(x) - png_bits(x))
    total = WeightedSum({"glow": alone, "png": PngLength()}, [0.0, 0.0], [1.0, 1.0])
    torch.testing.assert_close(both(x), total(x))


@EVERY
@DTYPES
def test_scores_of_any_batch_and_nothing_left_behind(kind, dtype, tolerance, fitted):
    detector = kind(Glow(1, levels=2, steps=2, hidden=8))
    detector.flow.load_state_dict(fitted.flow.state_dict())  # all that is learned
    detector = detector.to(dtype).eval()
    x = torch.cat([smooth_images(3, dtype=dtype), noise(2, dtype=dtype)])
    filled, state = x.clone(), {key: value.clone() for key, value in detector.state_dict().items()}
    for f in (detector, detector.latent, detector.surrogate.score, detector.surrogate.latent):
        whole = f(x).detach()
        assert whole.dtype == dtype and whole.isfinite().all() and len(whole) == 5
        torch.testing.assert_close(torch.cat([f(r[None]).detach() for r in x]), whole, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(f(x.flip(0)).detach().flip(0), whole, rtol=tolerance, atol=tolerance)
        with torch.no_grad():
            assert torch.equal(f(x), whole) and not f(x).requires_grad
        assert torch.equal(f(x.clone().requires_grad_()).detach(), whole)
    torch.testing.assert_close(detector(x), kind(fitted.flow)(x.float()).to(dtype), rtol=1e-3, atol=1e-3)
    assert torch.equal(detector.latent(x)[:, 0], detector(x))
    assert torch.equal(x, filled) and all(torch.equal(state[k], v) for k, v in detector.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in detector.parameters())
    assert [path for path, module in detector.named_modules() if module.training] == []


@EVERY
def test_a_flow_can_be_built_again_from_its_attributes(kind, fitted):
    flow = kind(fitted.flow).flow
    names = ("levels", "steps", "hidden", "affine", "n_bits")
    again = Glow(flow.channels, **{name: getattr(flow, name) for name in names}).eval()
    again.load_state_dict(flow.state_dict())
    assert torch.equal(kind(again)(noise(3)), kind(flow)(noise(3)))


@EVERY
@pytest.mark.parametrize("down", [True, False])
def test_attack_on_the_surrogate_moves_the_score_either_way(kind, down, fitted):
    detector = kind(fitted.flow)
    x = noise(4) if down else smooth_images(4, seed=9)
    clean = best = detector(x).detach()
    z, sign = x, 1 if down else -1
    for _ in range(20):
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(detector.surrogate.score(z).sum(), z)
        z = (x + (z.detach() - sign * 0.01 * gradient.sign() - x).clamp(-0.06, 0.06)).clamp(0, 1)
        best = torch.minimum(best, detector(z).detach()) if down else torch.maximum(best, detector(z).detach())
    assert (best < clean - 0.5).all() if down else (best > clean + 0.5).all()


def test_what_overflows_is_the_largest_number():
    flow = new()
    torch.nn.init.constant_(flow.priors[-1].bias, -60.0)  # standard deviations of e^-60
    assert GlowNLL(flow)(noise(2)).tolist() == [torch.finfo(torch.float32).max] * 2


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("channels", 0, ">= 1"),
        ("levels", 0, ">= 1"),
        ("steps", 0, ">= 1"),
        ("hidden", 0, ">= 1"),
        ("n_bits", 9, "1..8"),
    ],
)
def test_sizes_out_of_range(name, value, rule):
    with pytest.raises(ValueError, match=f"`{name}` must be (in )?{rule}, got {value}"):
        Glow(**{"channels": 1, name: value})


def test_images_that_do_not_fit(fitted):
    with pytest.raises(ValueError, match=r"`x` must have shape \(B, 1, H, W\) as the flow has, got \(2, 3, 16, 16\)"):
        fitted(noise(2, channels=3))
    with pytest.raises(ValueError, match="`x` must have images to fit on, got 0"):
        fit_glow(noise(2)[:0], seed=0)
    with pytest.raises(ValueError, match=r"`epochs` must be >= 1 and `lr` > 0, got 0 and 0.003"):
        fit_glow(noise(2), seed=0, epochs=0)
    with pytest.raises(ValueError, match=r"`epochs` must be >= 1 and `lr` > 0, got 1 and nan"):
        fit_glow(noise(2), seed=0, epochs=1, lr=float("nan"))


def test_a_training_that_diverges_says_so():
    with pytest.raises(FloatingPointError, match=r"the loss must be finite, got .* Lower `lr`"):
        fit_glow(noise(8, size=8), seed=0, **SMALL, lr=1e6, epochs=3, batch_size=4)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "normflows", None)
    with pytest.raises(
        ValueError, match=r"`Glow` must have the package normflows. Run `pip install 'oodattack\[flows\]'"
    ):
        Glow(1)
