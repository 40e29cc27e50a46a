"""PNG lengths, their sign, and the residuals whose gradient stands in for theirs."""

import pytest
import torch
from torch.nn.functional import interpolate

from oodattack.detectors.png_length import STEEP, PngLength, filtered, png_bits, residual_bits
from oodattack.metrics import rank_correlation


def mixed(channels, rows=12):
    """Smooth pictures, blocks, stripes and noise of several strengths, float64."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    smooth = interpolate(rand(rows, channels, 4, 4), 32, mode="bicubic").clamp(0, 1)
    blocks = interpolate(rand(rows, channels, 4, 4), 32, mode="nearest")
    noise = rand(rows, 1, 1, 1) * rand(rows, channels, 32, 32)
    grainy = (smooth + 0.3 * rand(rows, 1, 1, 1) * rand(rows, channels, 32, 32)).clamp(0, 1)
    return torch.cat([smooth, blocks, noise, grainy])


def test_length_is_that_of_the_file():
    from io import BytesIO

    from PIL import Image

    x = mixed(3)[:1]
    file = BytesIO()
    pixels = (255 * x[0]).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=9)
    assert png_bits(x).item() == pytest.approx(8 * len(file.getvalue()) / (3 * 32 * 32))


def test_simple_images_score_higher_unless_told_otherwise():
    flat, noise = torch.full((1, 1, 32, 32), 0.5), torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert PngLength()(flat) > PngLength()(noise) + 6
    turned = PngLength(complex_is_ood=True)
    assert torch.equal(turned(noise), -PngLength()(noise)) and torch.equal(turned.latent(noise)[:, 0], turned(noise))


def test_residuals_by_hand():
    q = torch.tensor([[10.0, 12.0], [13.0, 250.0]]).view(1, 1, 2, 2)
    none, sub, up, average, paeth = filtered(q).view(5, 4).tolist()
    assert none == [10, 12, 13, -6]  # 250 - 256
    assert sub == [10, 2, 13, 237 - 256]
    assert up == [10, 12, 3, 238 - 256]
    assert average == [10, 7, 8, 238 - 256]  # minus floor of the mean: 0, 5, 5 and 12
    # Paeth of the last: left 13, up 12, corner 10, guess 15, nearest 13
    assert paeth == [10, 2, 3, 237 - 256]


def test_residual_bits_by_hand():
    # both lines (0, 1): the first takes sub, (0, 1), as good as none and listed before it; the second up, (0, 0)
    x = torch.tensor([[0, 1], [0, 1]], dtype=torch.float64).view(1, 1, 2, 2).requires_grad_()
    bits = residual_bits(x / 255)
    assert bits.item() == pytest.approx(torch.log2(torch.tensor(1 + STEEP)).item() / 4, rel=1e-6)
    (gradient,) = torch.autograd.grad(bits, x)
    slope = STEEP / (1 + STEEP) / torch.log(torch.tensor(2.0)).item() / 4
    assert gradient[0, 0, 0, 1].item() == pytest.approx(slope, rel=1e-6)
    assert gradient[0, 0, 1].abs().max() == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_residuals_order_pictures_like_the_length(channels):
    x = mixed(channels)
    assert rank_correlation(residual_bits(x), png_bits(x)) > 0.95


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_surrogate_has_the_score_as_its_value_and_a_gradient(dtype):
    detector, x = PngLength(), mixed(3)[::5].to(dtype).requires_grad_()
    soft = detector.surrogate.score(x)
    assert torch.equal(soft.detach(), detector(x)) and soft.dtype == dtype and not detector.surrogate.exact
    (gradient,) = torch.autograd.grad(soft.sum(), x)
    assert gradient.isfinite().all() and (gradient.flatten(1).abs().amax(1) > 0).all()
    assert torch.equal(detector.surrogate.latent(x)[:, 0], soft)


def test_rows_do_not_influence_one_another():
    x = mixed(1)[::7]
    for f in (PngLength(), PngLength().soft, residual_bits):
        torch.testing.assert_close(torch.cat([f(row[None]) for row in x]), f(x))


@pytest.mark.parametrize("complex_is_ood", [True, False])
def test_attack_through_the_residuals_moves_the_length_either_way(complex_is_ood):
    detector, x = PngLength(complex_is_ood=complex_is_ood), mixed(1)[36:40]  # grainy pictures
    best, z = detector(x), x
    for _ in range(20):
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(detector.surrogate.score(z).sum(), z)
        z = (x + (z - 0.006 * gradient.sign() - x).clamp(-0.03, 0.03)).clamp(0, 1)
        best = best.minimum(detector(z))
    assert (best < detector(x) - 0.05).all()


def test_images_that_are_no_png_are_named():
    with pytest.raises(
        ValueError, match=r"`x` must have shape \(B, 1 or 3, H, W\) to be written as PNG, got \(1, 2, 4"
    ):
        PngLength()(torch.rand(1, 2, 4, 4))
