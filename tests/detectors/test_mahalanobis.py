"""Mahalanobis distances by hand."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors.mahalanobis import Gaussians, Mahalanobis, fit_mahalanobis, gaussians_of, mahalanobis
from oodattack.detectors.mahalanobis_layers import MahalanobisLayers, fit_mahalanobis_layers
from oodattack.detectors.moments import class_moments

pytestmark = pytest.mark.usefixtures("any_pixels")

POINTS = torch.tensor([[-1.0, 0.0], [1.0, 4.0], [9.0, 10.0], [11.0, 10.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 1, 1])


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def fit_gaussians(z, y):
    return gaussians_of(class_moments([(z, y)]))


def layered():
    """layer1 doubles, layer2 subtracts 1 from every channel; the head sees the flattened image."""
    scale, shift = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2, affine=False, eps=0.0)
    scale.weight.data = 2 * torch.eye(2).view(2, 2, 1, 1)
    shift.running_mean.fill_(1)
    head = nn.Linear(2, 2)
    pool = nn.AdaptiveAvgPool2d(1)
    parts = OrderedDict(layer1=scale, layer2=shift, pool=pool, flat=nn.Flatten(), head=head)
    return Classifier(nn.Sequential(parts).double().eval())


def test_fit_by_hand():
    # means (0, 2) and (10, 10); centred (-1, -2), (1, 2), (-1, 0), (1, 0); covariance of 4 points
    # ((1+1+1+1)/4, (2+2)/4; ., (4+4)/4) = (1, 1; 1, 2), determinant 1, inverse (2, -1; -1, 1)
    fitted = fit_gaussians(POINTS, LABELS)
    torch.testing.assert_close(fitted.means, double([0, 2], [10, 10]))
    torch.testing.assert_close(fitted.precision, double([2, -1], [-1, 1]))


def test_distance_by_hand():
    # (1, 3) - (0, 2) = (1, 1): 2 - 1 - 1 + 1 = 1, the other class is far; (12, 10): 2 * 2 * 2 = 8; a mean itself: 0
    scores = mahalanobis(double([1, 3], [12, 10], [0, 2]), fit_gaussians(POINTS, LABELS))
    torch.testing.assert_close(scores, double(1, 8, 0))


def test_distance_is_to_the_nearest_class_in_the_metric_and_not_in_space():
    # metric diag(100, 1): (1, 3) is 100 + 9 from (0, 0), and 0 + 49 from (1, 10)
    gaussians = Gaussians(double([0, 0], [1, 10]), torch.diag(double(100, 1)))
    torch.testing.assert_close(mahalanobis(double([1, 3]), gaussians), double(49))


def test_float32_features_with_gaussians_of_float64():
    scores = mahalanobis(double([1, 3]).float(), fit_gaussians(POINTS, LABELS))
    assert scores.dtype == torch.float32 and scores.item() == pytest.approx(1)


def test_a_feature_that_never_varies_is_ignored():
    # its covariance is singular; the pseudo-inverse gives it no weight
    fitted = fit_gaussians(torch.cat([POINTS, torch.full((4, 1), 3.0).double()], dim=1), LABELS)
    torch.testing.assert_close(mahalanobis(double([1, 3, 99]), fitted), double(1))


def test_fit_refuses_what_it_cannot_fit():
    with pytest.raises(ValueError, match=r"every class must have samples to fit on, got none of class 1"):
        fit_gaussians(POINTS, torch.tensor([0, 0, 2, 2]))
    with pytest.raises(ValueError, match=r"`y` must have one label a feature row, got 3 labels for 4 rows"):
        fit_gaussians(POINTS, LABELS[:3])


def test_detector_measures_penultimate_features():
    # features of image x: 2 x - 1; images (z + 1) / 2 give back the four points
    net, x = layered(), ((POINTS + 1) / 2).view(4, 2, 1, 1)
    detector = fit_mahalanobis(net, x, LABELS, batch_size=3)
    assert isinstance(detector, Mahalanobis)
    torch.testing.assert_close(detector.latent(x), POINTS)
    torch.testing.assert_close(detector.means, double([0, 2], [10, 10]))
    torch.testing.assert_close(detector(double(1, 2).view(1, 2, 1, 1)), double(1))  # 2 x - 1 = (1, 3)


def test_layers_by_hand():
    # image (1, 2): layer1 gives (2, 4), layer2 (1, 3). Class means there (1, 3) and (11, 11), (0, 2) and (10, 10), the
    # same covariance: 1 and 1, mean 1. With layer1's precision replaced by the identity: (1 + 1 + 1) / 2
    net, x = layered(), ((POINTS + 1) / 2).view(4, 2, 1, 1)
    image = double(1, 2).view(1, 2, 1, 1)
    detector = fit_mahalanobis_layers(net, x, LABELS, layers=["layer1", "layer2"], magnitude=0.0, batch_size=3)
    torch.testing.assert_close(detector.latent(image), double([2, 4, 1, 3]))
    torch.testing.assert_close(detector(image), double(1))
    detector.precision0.copy_(torch.eye(2))
    torch.testing.assert_close(detector(image), double(1.5))


def test_scores_of_classes_by_hand():
    # (1, 3) is (1, 1) from the first mean, 2 - 1 - 1 + 1 = 1, and (-9, -7) from the other: 2 * 81 - 2 * 63 + 49 = 85
    net, x = layered(), ((POINTS + 1) / 2).view(4, 2, 1, 1)
    image = double(1, 2).view(1, 2, 1, 1)
    one = fit_mahalanobis(net, x, LABELS)
    torch.testing.assert_close(one.class_scores(image), double([-1, -85]))
    several = fit_mahalanobis_layers(net, x, LABELS, layers=["layer1", "layer2"], magnitude=0.0)
    torch.testing.assert_close(several.class_scores(image), double([-1, -85]))
    several.precision0.copy_(torch.eye(2))  # 2 and 81 + 49 there
    torch.testing.assert_close(several.class_scores(image), double([-1.5, -107.5]))
    weighted = MahalanobisLayers(
        net, ["layer1", "layer2"], several.gaussians, magnitude=0.0, weights=torch.tensor([2.0, 0.5])
    )
    torch.testing.assert_close(weighted.class_scores(image), double([-4.5, -302.5]))


@pytest.mark.parametrize("magnitude", [0.0, 0.1])
def test_the_score_is_that_of_the_best_class_where_all_layers_agree_on_it(magnitude):
    x = ((POINTS + 1) / 2).view(4, 2, 1, 1)
    detector = fit_mahalanobis_layers(layered(), x, LABELS, layers=["layer1", "layer2"], magnitude=magnitude)
    torch.testing.assert_close(-detector.class_scores(x).amax(dim=1), detector(x))


def test_layers_are_channel_means():
    # two positions (0, 2) and (2, 4), mean (1, 3), in layer2: x = (z + 1) / 2
    fitted = Gaussians(double([0, 2]), torch.eye(2).double())
    detector = MahalanobisLayers(layered(), ["layer2"], [fitted], magnitude=0.0)
    image = double([0.5, 1.5], [1.5, 2.5]).view(1, 2, 1, 2)
    torch.testing.assert_close(detector(image), double(2))  # (1, 1) squared, 1 + 1


def test_each_layer_has_its_own_step():
    # layer1 = 2 x with mean (1, 5) and identity: at (2, 4), off (1, -1), the step is (-0.1, +0.1) in x, (-0.2, +0.2) in
    # 2 x: off (0.8, -0.8), distance 1.28. layer2 = 2 x - 1 with mean (0, 2): at (1, 3), off (1, 1), step (-0.2, -0.2):
    # off (0.8, 0.8), distance 1.28. A step shared by both layers could not do both
    eye = torch.eye(2).double()
    fitted = [Gaussians(double([1, 5]), eye), Gaussians(double([0, 2]), eye)]
    detector = MahalanobisLayers(layered(), ["layer1", "layer2"], fitted, magnitude=0.1)
    image = double(1, 2).view(1, 2, 1, 1)
    torch.testing.assert_close(detector.latent(image), double([1.8, 4.2, 0.8, 2.8]))
    torch.testing.assert_close(detector(image), double(1.28))


def test_layers_refuse_what_does_not_fit():
    net, fitted = layered(), fit_gaussians(POINTS, LABELS)
    for magnitude in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"`magnitude` must be >= 0, got {magnitude}"):
            MahalanobisLayers(net, ["layer1"], [fitted], magnitude=magnitude)
    with pytest.raises(ValueError, match=r"`gaussians` must be one per layer, got 1 for 2 layers"):
        MahalanobisLayers(net, ["layer1", "layer2"], [fitted], magnitude=0.0)
    with pytest.raises(ValueError, match=r"layers must name modules of the network, got 'layer9'"):
        fit_mahalanobis_layers(net, POINTS.view(4, 2, 1, 1), LABELS, layers=["layer9"])
