import pytest
import torch

from oodattack.data.images import Images, check_images, subset

NAN, INFINITE = torch.full((1, 1, 2, 2), torch.nan), torch.full((1, 1, 2, 2), torch.inf)
REFUSED = {
    "whole numbers": (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), r"`x` must be floating point, got torch.uint8"),
    "no batch axis": (torch.zeros(1, 2, 2), r"`x` must have shape \(N, C, H, W\), got \(1, 2, 2\)"),
    "empty": (torch.zeros(0, 1, 2, 2), r"`x` must hold at least one image, got shape \(0, 1, 2, 2\)"),
    "nan": (NAN, "`x` must be finite"),
    "one nan among numbers": (torch.cat([torch.zeros(1, 1, 2, 2), NAN]), "`x` must be finite"),
    "infinite": (INFINITE, "`x` must be finite"),
    "one minus infinity among numbers": (torch.cat([torch.zeros(1, 1, 2, 2), -INFINITE]), "`x` must be finite"),
    "8-bit": (torch.tensor([[[[0.0, 255.0]]]]), r"`x` must be in \[0, 1\], got \[0, 255\]. Divide 8-bit values by 255"),
    "rounded": (torch.tensor([[[[0.0, 1.00001]]]]), r"got \[0, 1\.00001001\]. Write x\.clamp\(0, 1\) if that is what"),
    "normalised": (torch.tensor([[[[-1.5, 0.5]]]]), r"`x` must be in \[0, 1\], got \[-1.5, 0.5\]"),
}


@pytest.mark.parametrize(("x", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_image_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        check_images(x, "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_images_pass_with_both_ends_of_the_interval(dtype):
    x = torch.tensor([[[[0.0, 1.0]]]], dtype=dtype)
    assert check_images(x, "x") is x


def counted(n):
    return Images("counted", torch.arange(n).view(n, 1, 1, 1) / n, torch.arange(n), "test")


def test_subset_draws_without_replacement_and_keeps_order_and_labels():
    some = subset(counted(50), 20, seed=1)
    assert len(some.x) == 20
    assert (some.y.diff() > 0).all()  # strictly ascending: in order, none twice
    assert torch.equal(some.x.flatten(), some.y / 50)
    assert torch.equal(some.y, subset(counted(50), 20, seed=1).y)
    assert not torch.equal(some.y, subset(counted(50), 20, seed=2).y)


def test_subset_of_all_is_all():
    assert torch.equal(subset(counted(5), None, seed=0).x, counted(5).x)
    assert torch.equal(subset(counted(5), 5, seed=0).x, counted(5).x)


@pytest.mark.parametrize("samples", [0, -1, 6])
def test_subset_names_the_number_of_images(samples):
    with pytest.raises(ValueError, match=rf"`samples` must be in 1..5 for `counted`, got {samples}"):
        subset(counted(5), samples, seed=0)
