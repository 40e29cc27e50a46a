"""Layers of a Mahalanobis detector weighted by what OOD images look like."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors.layer_weights import fit_layer_weights
from oodattack.detectors.mahalanobis import Gaussians
from oodattack.detectors.mahalanobis_layers import MahalanobisLayers, fit_mahalanobis_layers
from oodattack.metrics import auroc

pytestmark = pytest.mark.usefixtures("any_pixels")


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


class Channel(nn.Module):
    """Keeps one channel of its input for whoever listens, and passes the input on."""

    def __init__(self, channel):
        super().__init__()
        self.tap, self.channel = nn.Identity(), channel

    def forward(self, x):
        self.tap(x[:, self.channel, None])
        return x


def taps():
    """Layers `a.tap` and `b.tap` are the first and the second pixel of an image."""
    parts = OrderedDict(a=Channel(0), b=Channel(1), flat=nn.Flatten(), head=nn.Linear(2, 2))
    return Classifier(nn.Sequential(parts).double().eval())


def detector(**options):
    """Distances a^2 and b^2 of the image (a, b)."""
    unit = Gaussians(double([0]), double([1]))
    return MahalanobisLayers(taps(), ["a.tap", "b.tap"], [unit, unit], **{"magnitude": 0.0, **options})


def pixels(*rows):
    return double(*rows)[:, :, None, None]


def noise(rows, seed, *, scale):
    z = torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (z * double(*scale))[:, :, None, None]


def test_weighted_sum_by_hand():
    # distances 4 and 9: mean 6.5; 0.5 * 4 - 2 * 9 = -16
    x = pixels([2, 3])
    assert detector().distances(x).tolist() == [[4, 9]]
    assert detector()(x).item() == 6.5
    assert detector(weights=double(0.5, -2))(x).item() == -16


def test_equal_weights_are_the_mean():
    x = noise(10, 0, scale=(1, 2))
    torch.testing.assert_close(detector(weights=double(0.5, 0.5))(x), detector()(x))


def test_the_layer_that_tells_gets_the_weight():
    # OOD images are wide in a and like the others in b, which is noise: the average is worse than a alone
    known, strange = noise(200, 0, scale=(1, 3)), noise(200, 1, scale=(4, 3))
    fitted = fit_layer_weights(detector(), known, strange)
    assert fitted.weights[0] > 0 and fitted.weights[0] > 20 * fitted.weights[1].abs()
    test_id, test_ood = noise(300, 2, scale=(1, 3)), noise(300, 3, scale=(4, 3))
    plain = auroc(detector()(test_id), detector()(test_ood))
    assert auroc(fitted(test_id), fitted(test_ood)) > plain + 0.1


def test_a_weight_is_negative_where_ood_images_are_nearer():
    fitted = fit_layer_weights(detector(), noise(200, 0, scale=(1, 3)), noise(200, 1, scale=(3, 0.1)))
    assert fitted.weights[0] > 0 > fitted.weights[1]


def test_units_of_a_layer_do_not_matter():
    # a precision of 1e6 is a distance 1e6 as large: its weight is 1e-6 of what it was
    known, strange = noise(100, 0, scale=(1, 1)), noise(100, 1, scale=(2, 2))
    plain = fit_layer_weights(detector(), known, strange)
    other = MahalanobisLayers(
        taps(),
        ["a.tap", "b.tap"],
        [Gaussians(double([0]), double([1e6])), Gaussians(double([0]), double([1]))],
        magnitude=0.0,
    )
    scaled = fit_layer_weights(other, known, strange)
    torch.testing.assert_close(scaled.weights * double(1e6, 1), plain.weights, rtol=1e-4, atol=0)


def test_what_was_fitted_is_kept_and_batches_do_not_matter():
    known, strange = noise(30, 0, scale=(1, 1)), noise(30, 1, scale=(2, 2))
    start = detector(magnitude=0.05)
    fitted = fit_layer_weights(start, known, strange)
    assert fitted.magnitude == 0.05 and fitted.layers == start.layers and fitted.net is start.net
    for a, b in zip(fitted.gaussians, start.gaussians, strict=True):
        assert torch.equal(a.means, b.means) and torch.equal(a.precision, b.precision)
    batches = [list(x.split(7)) for x in (known, strange)]
    torch.testing.assert_close(fit_layer_weights(start, *batches).weights, fitted.weights)
    assert start.weights is None


def test_constructor_arguments_can_be_read_back():
    weights, gaussians = double(1, 2), [Gaussians(double([0]), double([1])), Gaussians(double([3]), double([2]))]
    kept = MahalanobisLayers(taps(), ["a.tap", "b.tap"], gaussians, magnitude=0.1, weights=weights)
    again = MahalanobisLayers(kept.net, kept.layers, kept.gaussians, magnitude=kept.magnitude, weights=kept.weights)
    x = noise(4, 0, scale=(1, 1))
    assert torch.equal(again(x), kept(x)) and torch.equal(kept.weights, weights)
    assert kept.gaussians == gaussians  # the very tensors
    assert "weights" in kept.state_dict() and "weights" not in detector().state_dict()


def test_nearly_dependent_channels_do_not_cancel_in_float32():
    # (0.5, 0.5) off the mean: 1e10 * 0.25 * (1 - 1 - 1 + 1) + 0.25, where 1e10 + 1 rounds to 1e10 in float32
    precision = double([1e10, -1e10], [-1e10, 1e10 + 1])
    net = Classifier(nn.Sequential(OrderedDict(layer1=nn.Identity(), flat=nn.Flatten(), head=nn.Linear(2, 2))).eval())
    ill = MahalanobisLayers(net, ["layer1"], [Gaussians(double([0, 0]), precision)], magnitude=0.0)
    score = ill(torch.full((1, 2, 1, 1), 0.5))
    assert score.dtype == torch.float32 and score.item() == pytest.approx(0.25)


def test_layers_are_fitted_as_if_each_were_alone():
    x, y = noise(40, 0, scale=(1, 3)), torch.arange(40) % 2
    together = fit_mahalanobis_layers(taps(), x, y, layers=["a.tap", "b.tap"])
    loader = list(zip(x.split(7), y.split(7), strict=True))
    for i, layer in enumerate(["a.tap", "b.tap"]):
        (alone,) = fit_mahalanobis_layers(taps(), loader, layers=[layer]).gaussians
        torch.testing.assert_close(together.gaussians[i].means, alone.means, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together.gaussians[i].precision, alone.precision, rtol=1e-12, atol=1e-12)


def test_refuses_what_does_not_fit():
    known = noise(10, 0, scale=(1, 1))
    with pytest.raises(ValueError, match=r"`ood_val` must have at least 5 images, one a fold, got 4"):
        fit_layer_weights(detector(), known, known[:4])
    with pytest.raises(ValueError, match=r"`x` must have images to fit on, got 0"):
        fit_layer_weights(detector(), known[:0], known)
    with pytest.raises(ValueError, match=r"`weights` must be one finite number a layer, 2, got \[1.0\]"):
        detector(weights=double(1))
    with pytest.raises(ValueError, match=r"`weights` must be one finite number a layer, 2, got \[1.0, nan\]"):
        detector(weights=double(1, float("nan")))
