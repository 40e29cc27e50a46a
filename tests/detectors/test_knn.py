"""Distances to the k-th neighbour by hand and by brute force."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

import oodattack.detectors.knn as module
from oodattack.classifier import Classifier
from oodattack.detectors.knn import KNN, fit_knn, knn, knn_by_mean, neighbours

pytestmark = pytest.mark.usefixtures("any_pixels")


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def flat(features=2):
    """A classifier whose features are the pixels."""
    head = nn.Linear(features, 2)
    return Classifier(nn.Sequential(OrderedDict(flat=nn.Flatten(), head=head)).double().eval())


def directions(rows, features=5, seed=0):
    z = torch.randn(rows, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return nn.functional.normalize(z, dim=1)


@pytest.mark.parametrize(("k", "expected"), [(1, 0.08), (2, 0.4), (3, 0.8)])
def test_by_hand(k, expected):
    # (0.4, 0.3) / 0.5 = (0.8, 0.6); inner products 0.8, 0.6, 0.96; 2 - 2 of them: 0.4, 0.8, 0.08
    bank = double([1, 0], [0, 1], [0.6, 0.8])
    detector = KNN(flat(), bank, k=k)
    assert detector(double(0.4, 0.3).view(1, 2, 1, 1)).item() == pytest.approx(expected)


def test_fit_by_hand():
    # (3, 4) and (0, 2) become (0.6, 0.8) and (0, 1)
    detector = fit_knn(flat(), double([3, 4], [0, 2]).view(2, 2, 1, 1), k=2, batch_size=1)
    torch.testing.assert_close(detector.bank, double([0.6, 0.8], [0, 1]))
    assert detector(double(0, 9).view(1, 2, 1, 1)).item() == pytest.approx(0.4)  # 2 - 2 * 0.8


@pytest.mark.parametrize("chunk", [1, 7, 20, 100])
def test_chunks_do_not_matter(chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    z, bank = directions(6), directions(20, seed=1)
    distances = (z[:, None] - bank).square().sum(2).sort(dim=1)
    for k in (1, 5, 20):
        torch.testing.assert_close(knn(z, bank, k), distances.values[:, k - 1])
        assert torch.equal(neighbours(z, bank, k), distances.indices[:, :k])
        assert torch.equal(knn_by_mean(z, bank, k), knn(z, bank, k))


def test_small_distances_are_precise_in_float32():
    # 2 - 2 <z, z_1> would be off by 1e-7, more than the distance itself
    bank = directions(10).float()
    z = nn.functional.normalize(bank[:1] + 1e-5 * directions(1, seed=3).float(), dim=1)
    exact = (z.double() - bank[:1].double()).square().sum()
    assert knn(z, bank, 1).item() == pytest.approx(exact.item(), rel=1e-4)


def test_a_training_image_is_its_own_neighbour_with_a_finite_gradient():
    z = directions(3).requires_grad_()
    score = knn(z, z.detach(), 1)
    (gradient,) = torch.autograd.grad(score.sum(), z)
    assert score.tolist() == [0, 0, 0] and not gradient.any()


def test_derivative_holds_the_neighbour():
    bank = directions(20, seed=1)
    assert torch.autograd.gradcheck(lambda z: knn(z, bank, 3), directions(4).requires_grad_())


def test_slope_by_the_mean_of_all_neighbours():
    z, bank = directions(4).requires_grad_(), directions(20, seed=1)
    nearest = (z[:, None] - bank).square().sum(2).topk(3, dim=1, largest=False).values
    expected = torch.autograd.grad(nearest.mean(dim=1).sum(), z)[0]
    torch.testing.assert_close(torch.autograd.grad(knn_by_mean(z, bank, 3).sum(), z)[0], expected)


def test_surrogate_and_class_scores_by_hand():
    # u = (0.8, 0.6); squared distances 0.4 to (1, 0), 0.8 to (0, 1), 0.08 to (0.6, 0.8)
    bank, x = double([1, 0], [0, 1], [0.6, 0.8]), double(0.4, 0.3).view(1, 2, 1, 1)
    detector = KNN(flat(), bank, k=2, classes=torch.tensor([3, 0, 3]))
    assert detector.surrogate.exact and detector.surrogate.score(x).item() == detector(x).item() == pytest.approx(0.4)
    torch.testing.assert_close(detector.class_scores(x), double([-0.8, -0.4]))  # class 0 has one, class 3 has both
    assert not hasattr(KNN(flat(), bank, k=1), "surrogate")  # the score itself
    assert not hasattr(KNN(flat(), bank, k=2), "class_scores")


def test_classes_are_the_networks_predictions():
    net, x = flat(), torch.rand(40, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        net.network.head.weight.copy_(torch.eye(2))
        net.network.head.bias.zero_()
    some = fit_knn(net, x, share=0.5, seed=3)
    assert len(some.classes) == 20 and torch.equal(some.classes, some.bank.argmax(dim=1))
    assert set(some.classes.tolist()) == {0, 1}


def test_root_of_the_score_moves_no_further_than_the_latent():
    # triangle inequality: |d_k(z) - d_k(z')| <= ||z - z'||
    a, b, bank = directions(50), directions(50, seed=1), directions(30, seed=2)
    moved = (knn(a, bank, 4).sqrt() - knn(b, bank, 4).sqrt()).abs()
    assert (moved <= (a - b).norm(dim=1) + 1e-12).all()


def test_fit_keeps_a_share_of_the_images():
    net, x = flat(), torch.rand(40, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, some = fit_knn(net, x), fit_knn(net, x, share=0.25, seed=3)
    assert len(whole.bank) == 40 and len(some.bank) == 10
    assert torch.equal(some.bank, fit_knn(net, x, share=0.25, seed=3, batch_size=7).bank)
    assert not torch.equal(some.bank, fit_knn(net, x, share=0.25, seed=4).bank)
    found = (some.bank[:, None] == whole.bank).all(2)
    assert found.sum(1).tolist() == [1] * 10 and found.sum(0).max() == 1  # without replacement


@pytest.mark.parametrize(("rows", "k"), [(3, 1), (20, 2), (45, 5), (600, 50)])
def test_default_k_is_fifty_or_a_tenth_of_a_small_bank(rows, k):
    x = torch.rand(rows, 2, 1, 1, dtype=torch.float64)
    assert fit_knn(flat(), x).k == k


def test_features_without_a_direction_are_left_out():
    x = double([3, 4], [0, 0], [0, 2])[:, :, None, None]
    torch.testing.assert_close(fit_knn(flat(), x, k=1).bank, double([0.6, 0.8], [0, 1]))


def test_refuses_what_does_not_fit():
    net, x = flat(), torch.rand(4, 2, 1, 1).double()
    with pytest.raises(ValueError, match=r"`k` must be in 1..4, the rows of the bank, got 5"):
        fit_knn(net, x, k=5)
    with pytest.raises(ValueError, match=r"`share` must be in \(0, 1\], got 50"):
        fit_knn(net, x, share=50, seed=0)
    with pytest.raises(ValueError, match=r"`seed` must be given to draw a share of 0.5"):
        fit_knn(net, x, share=0.5)
    with pytest.raises(ValueError, match=r"`classes` must be one a row of the bank, shape \(2,\), got \(1,\)"):
        KNN(net, double([1, 0], [0, 1]), k=1, classes=torch.tensor([0]))
    with pytest.raises(ValueError, match=r"`bank` must hold rows of length 1, got \(1, 2\), 5 to 5 long"):
        KNN(net, double([3, 4]), k=1)
    with pytest.raises(ValueError, match=r"`bank` must hold rows of length 1, got \(2, 2\), 0 to 1 long"):
        KNN(net, double([1, 0], [0, 0]), k=1)
    with pytest.raises(ValueError, match=r"`bank` must hold rows of length 1, got \(2,\)"):
        KNN(net, double(1, 0), k=1)
    with pytest.raises(ValueError, match=r"`x` must have images to fit on, got 0"):
        fit_knn(net, x[:0])
