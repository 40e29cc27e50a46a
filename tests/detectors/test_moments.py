"""Class means and pooled covariance: by hand, batch by batch, and as scikit-learn has them."""

from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors.mahalanobis import fit_mahalanobis
from oodattack.detectors.moments import batch_moments, class_moments, covariance, merged, precision

pytestmark = pytest.mark.usefixtures("any_pixels")


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def pixels():
    """Features are the two pixels."""
    return Classifier(nn.Sequential(OrderedDict(flat=nn.Flatten(), head=nn.Linear(2, 3))).double().eval())


def features(rows=200, size=12, classes=5, seed=0):
    """Correlated, far from 0, one dead, one a copy of another."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    z = z @ torch.randn(size, size, generator=generator, dtype=torch.float64) + 100
    y = torch.arange(rows) % classes
    z = z + 30 * y[:, None]
    z[:, 0], z[:, 2] = 0.1, z[:, 1]
    return z, y[torch.randperm(rows, generator=generator)]


def in_batches(z, y, sizes):
    return zip(z.split(sizes), y.split(sizes), strict=True)


def test_moments_by_hand():
    # class 0: (0, 0), (2, 4), mean (1, 2), off (-1, -2), (1, 2); class 1: (5, 5), off 0. Scatter 2 (1, 2; 2, 4)
    z, y = double([0, 0], [5, 5], [2, 4]), torch.tensor([0, 1, 0])
    found = batch_moments(z, y)
    assert found.labels.tolist() == [0, 1] and found.rows.tolist() == [2, 1]
    torch.testing.assert_close(found.means, double([1, 2], [5, 5]))
    torch.testing.assert_close(found.scatter, double([2, 4], [4, 8]))
    torch.testing.assert_close(covariance(found), double([2, 4], [4, 8]) / 3)


def test_merging_by_hand():
    # class 0 has (0, 0) in one and (3, 3), (5, 5) in the other, means 0 and 4, 1 and 2 rows: mean 8/3, and the scatter
    # of the second, 2 (1, 1; 1, 1), grows by 16 * 1 * 2 / 3. Classes 1 and 2 are in one of them only
    a = batch_moments(double([0, 0], [9, 9]), torch.tensor([0, 1]))
    b = batch_moments(double([3, 3], [5, 5], [7, 8]), torch.tensor([0, 0, 2]))
    for found in (merged(a, b), merged(b, a)):
        assert found.labels.tolist() == [0, 1, 2] and found.rows.tolist() == [3, 1, 1]
        torch.testing.assert_close(found.means, double([8 / 3, 8 / 3], [9, 9], [7, 8]))
        torch.testing.assert_close(found.scatter, torch.full((2, 2), 2 + 32 / 3).double())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), cuts=st.lists(st.integers(1, 59), max_size=6, unique=True))
def test_batches_do_not_matter(seed, cuts):
    z, y = features(60, 4, 3, seed)
    edges = [0, *sorted(cuts), 60]
    found = class_moments(in_batches(z, y, [b - a for a, b in pairwise(edges)]))
    whole = class_moments([(z, y)])
    assert torch.equal(found.labels, whole.labels) and torch.equal(found.rows, whole.rows)
    torch.testing.assert_close(found.means, whole.means, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.scatter, whole.scatter, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("sizes", [200, 7, 1])
def test_as_scikit_learn(sizes):
    from sklearn.covariance import EmpiricalCovariance

    z, y = features()
    found = class_moments(in_batches(z, y, sizes))
    means = torch.stack([z[y == k].mean(0) for k in range(5)])
    wanted = EmpiricalCovariance(assume_centered=False).fit((z - means[y]).numpy())
    torch.testing.assert_close(found.means, means, rtol=1e-12, atol=0)
    scale = wanted.covariance_.max()
    torch.testing.assert_close(covariance(found), torch.tensor(wanted.covariance_), rtol=1e-10, atol=1e-10 * scale)
    inverse = torch.tensor(wanted.precision_)  # the pseudo-inverse: rank 10 of 12
    torch.testing.assert_close(precision(found), inverse, rtol=0, atol=1e-10 * inverse.abs().max().item())
    assert torch.linalg.matrix_rank(precision(found)) == 10


def test_means_far_from_zero_cost_no_digits():
    # one pass with sums of squares would leave nothing of a variance of 1e-6 at 1e6: 1e12 has 4 digits behind the point
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(300, 3, generator=generator, dtype=torch.float64) * 1e-3
    z, y = small + 1e6, torch.zeros(300, dtype=torch.int64)
    shifted = covariance(class_moments(in_batches(z, y, 10)))
    torch.testing.assert_close(shifted, covariance(class_moments([(small, y)])), rtol=1e-5, atol=1e-11)


def test_float32_features_are_added_up_in_float64():
    z, y = features()
    found = class_moments(in_batches(z.float(), y, 10))
    assert {t.dtype for t in found[1:4]} == {torch.float64}
    torch.testing.assert_close(found.scatter, class_moments([(z.float().double(), y)]).scatter, rtol=1e-10, atol=1e-8)


def test_directions_that_are_rounding_alone_get_no_weight():
    # the third feature is the sum of the others, up to the rounding of float32
    z = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(60) % 3
    z = torch.cat([z, z.sum(dim=1, keepdim=True)], dim=1)
    exact, rounded = (precision(class_moments([(part, y)])) for part in (z, z.float()))
    torch.testing.assert_close(rounded, exact, rtol=1e-4, atol=1e-4)
    assert torch.linalg.matrix_rank(rounded, rtol=1e-9) == 2


def test_one_class_is_one_gaussian():
    # mean (2, 0), off (-2, -1), (2, 1), (0, 0), covariance (8, 4; 4, 2) / 3: along (2, 1) only, 10/3 there
    x = double([0, -1], [4, 1], [2, 0]).view(3, 2, 1, 1)
    detector = fit_mahalanobis(pixels(), x, torch.zeros(3, dtype=torch.int64))
    assert detector.means.shape == (1, 2)
    # (4, 1) is sqrt(5) away along it: 5 / (10/3)
    torch.testing.assert_close(detector(double(4, 1).view(1, 2, 1, 1)), double(1.5))


def test_labels_may_be_of_any_whole_type_and_order():
    z, y = features(60, 4, 3)
    wanted = class_moments([(z, y)])
    for kind in (torch.int32, torch.uint8):
        found = class_moments((rows, labels.to(kind)) for rows, labels in in_batches(z, y, 8))
        torch.testing.assert_close(found.means, wanted.means)
    order = y.argsort(descending=True)  # the first batches have class 2 only
    torch.testing.assert_close(class_moments(in_batches(z[order], y[order], 8)).means, wanted.means)


def test_a_wild_label_costs_no_memory():
    with pytest.raises(ValueError, match="every class must have samples to fit on, got none of class 1"):
        class_moments([(torch.ones(2, 3), torch.tensor([0, 2**40]))])


NET, X = pixels(), torch.rand(4, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (lambda: fit_mahalanobis(NET, X, torch.tensor([0, -1, 0, 1])), r"`y` must be classes 0, 1, 2, ..., got -1"),
        (lambda: fit_mahalanobis(NET, X, torch.tensor([1, 1, 2, 2])), "got none of class 0"),
        (lambda: fit_mahalanobis(NET, X, torch.tensor([0, 0, 2, 2]), batch_size=1), "got none of class 1"),
        (lambda: fit_mahalanobis(NET, X, torch.arange(4)), "must vary within a class .* from 4 rows in 4 classes"),
        (lambda: fit_mahalanobis(NET, X, torch.arange(3)), "must have one label an image, got 3 labels for 4 images"),
        (lambda: fit_mahalanobis(NET, X, torch.zeros(4)), r"`y` must be whole numbers, got values of type torch.float"),
        (lambda: fit_mahalanobis(NET, X[:0], torch.arange(0)), "`x` must have images to fit on, got 0"),
        (lambda: fit_mahalanobis(NET, X), "`y` must be the labels of the images, got none"),
        (
            lambda: fit_mahalanobis(NET, X * float("nan"), torch.arange(4) % 2),
            r"`x` must be images in \[0, 1\], got \[nan",
        ),
        (lambda: class_moments([(X[:, :, 0, 0] / 0, torch.arange(4) % 2)]), "features must be finite"),
        (
            lambda: class_moments([(X[:, :, 0, 0], torch.zeros(4))]),
            r"`y` must be classes 0, 1, 2, ..., got torch.float32",
        ),
        (lambda: class_moments([(X[:, :, 0, 0], torch.zeros(4, 1))]), r"got shape \(4, 1\) of labels for 4 rows"),
        (lambda: class_moments([(X[:0, :, 0, 0], torch.arange(0))]), "got 0 rows"),
    ],
)
def test_wrong_use_is_named(fit, message):
    with pytest.raises(ValueError, match=message):
        fit()
