"""Images of the same latent for linear encoders: by hand, at the wanted distance, inside the box."""

import pytest
import torch
from torch import nn

from oodattack.attacks.null_space import null_space, same_latent
from oodattack.classifier import Classifier
from oodattack.detectors import MSP, MaxLogit


def image(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def total(x):
    """z = x_1 + x_2 + ..., K = 1."""
    return x.flatten(1).sum(1, keepdim=True)


def convolutional(dtype=torch.float64):
    """Convolution, pooling and a linear map from 3 x 12 x 12 numbers to 8: linear, and with a bias everywhere."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(150, 8)
    return nn.Sequential(*layers).to(dtype).eval()


def pictures(rows=6, *, dtype=torch.float64):
    """Blobs on a black ground with a white rim: most pixels are at a wall."""
    generator = torch.Generator().manual_seed(1)
    x = (2.5 * torch.rand(rows, 3, 12, 12, generator=generator, dtype=torch.float64) - 1).clamp(0, 1)
    x[:, :, 0], x[:, :, 1] = 1, 0
    return x.to(dtype)


def noise(rows=6, *, dtype=torch.float64, seed=2):
    return torch.rand(rows, 3, 12, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_null_space_by_hand():
    # x_ood - x_id = (0.8, -0.3); along (1, -1) / sqrt 2 it is (0.55, -0.55), here at the length 10
    found = null_space(total, image(0.2, 0.3), image(1.0, 0.0), distance=10)
    far = 10 / 2**0.5
    assert found.flatten().tolist() == pytest.approx([0.2 + far, 0.3 - far])


@pytest.mark.parametrize(
    ("x_ood", "expected"),
    [
        ((1.0, 1.0), (0.25, 0.25)),  # (1, 1) moved by -1.5 / 2 each: inside
        ((1.0, 0.0), (0.5, 0.0)),  # (0.75, -0.25) without walls; the second stays at 0 and the first takes the rest
        ((0.2, 0.3), (0.2, 0.3)),
        ((-3.0, 9.0), (0.0, 0.5)),  # from outside the box
    ],
)
def test_nearest_image_by_hand(x_ood, expected):
    found = same_latent(total, image(0.2, 0.3), image(*x_ood))
    assert found.flatten().tolist() == pytest.approx(list(expected), abs=1e-12)


def test_three_pixels_two_of_which_share_what_the_wall_leaves():
    # x_id sums to 1; (1, 1, -0.4) moved by -0.2 each is (0.8, 0.8, -0.6); with the last at 0, the others give 0.5 each
    found = same_latent(total, image(0.2, 0.3, 0.5), image(1.0, 1.0, -0.4))
    assert found.flatten().tolist() == pytest.approx([0.5, 0.5, 0.0], abs=1e-12)


@pytest.mark.parametrize("distance", [0.0, 3.0, 1e4])
def test_the_latent_is_kept_and_the_distance_as_wanted(distance):
    encoder, x = convolutional(), pictures()
    found = null_space(encoder, x, noise(), distance=distance)
    torch.testing.assert_close(encoder(found), encoder(x), rtol=0, atol=1e-13 * (1 + distance))
    assert (found - x).flatten(1).norm(dim=1).tolist() == pytest.approx([distance] * 6)
    # along the null space towards the other image, no other way
    if distance:
        step, off = (found - x).flatten(1), (noise() - x).flatten(1)
        assert ((step * off).sum(1) > 0).all()
        residual = (step / step.norm(dim=1, keepdim=True)) * (step * off).sum(1, keepdim=True) / distance
        assert encoder(x + (off - residual).view_as(x)).sub(encoder(x)).abs().max() > 0.01  # what is left is seen


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_the_image_in_the_box_has_the_latent_and_is_nowhere_near_the_id_image(dtype, tolerance):
    encoder, x, start = convolutional(dtype), pictures(dtype=dtype), noise(dtype=dtype)
    found = same_latent(encoder, x, start)
    assert found.dtype == dtype and found.min() >= 0 and found.max() <= 1
    torch.testing.assert_close(encoder(found), encoder(x), rtol=0, atol=tolerance)
    assert (encoder(start) - encoder(x)).abs().max() > 1e3 * tolerance
    near, far = (found - start).flatten(1).norm(dim=1), (found - x).flatten(1).norm(dim=1)
    assert (far > 5 * near).all() and (far > 6).all()  # of at most sqrt(432) = 20.8


def test_no_image_of_that_latent_is_nearer():
    # of a projection p of s onto a convex set: (s - p) (y - p) <= 0 for every y in it
    encoder, x, start = convolutional(), pictures(), noise() * 2 - 0.5
    found = same_latent(encoder, x, start)
    assert ((found == 0) | (found == 1)).flatten(1).sum(1).min() > 50  # walls matter
    for other in (x, same_latent(encoder, x, noise(seed=5)), same_latent(encoder, x, 1 - start)):
        assert ((start - found) * (other - found)).flatten(1).sum(1).max() <= 1e-9
        assert ((other - start).flatten(1).norm(dim=1) >= (found - start).flatten(1).norm(dim=1)).all()


def test_scores_of_a_linear_classifier_do_not_see_the_difference():
    net = Classifier(convolutional(), mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.3]).double()
    x = pictures()
    found = same_latent(net.logits, x, noise())
    for detector in (MSP(net), MaxLogit(net)):
        assert (detector(noise()) - detector(x)).abs().max() > 1e-3
        torch.testing.assert_close(detector(found), detector(x), rtol=0, atol=1e-10)


def test_where_the_latent_leaves_no_room_the_id_image_comes_back():
    x = pictures()
    black = torch.zeros_like(x)
    assert same_latent(total, black, noise()).abs().max() < 1e-9  # nothing else sums to 0
    everything = nn.Flatten()
    torch.testing.assert_close(same_latent(everything, x[:2, :, :4, :4], noise(2)[:, :, :4, :4]), x[:2, :, :4, :4])
    with pytest.raises(ValueError, match="`x_ood` must differ from `x_id` in the null space, got a row that does not"):
        null_space(everything, x[:2, :, :4, :4], noise(2)[:, :, :4, :4], distance=1.0)


def test_rows_of_equal_weights_count_once():
    twice = lambda x: torch.cat([total(x), 2 * total(x), 0 * total(x)], dim=1)  # of rank 1
    assert same_latent(twice, image(0.2, 0.3), image(1.0, 0.0)).flatten().tolist() == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize("bend", [torch.relu, torch.tanh, torch.square])
def test_encoders_that_are_not_linear_are_refused(bend):
    encoder = lambda x: bend(convolutional()(x))
    for f in (lambda: same_latent(encoder, pictures(), noise()),
              lambda: null_space(encoder, pictures(), noise(), distance=1.0)):  # fmt: skip
        with pytest.raises(ValueError, match="`encoder` must be linear, z = W x"):
            f()


def test_id_images_outside_the_box_are_refused():
    with pytest.raises(ValueError, match=r"`x_id` must be in \[0, 1\], got 0 to 255"):
        same_latent(total, 255 * image(0.0, 1.0), image(0.0, 1.0))
