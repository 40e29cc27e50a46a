"""Virtual logits by hand."""

from collections import OrderedDict
from math import exp, log

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors.energy import energy
from oodattack.detectors.vim import ViM, default_dim, fit_vim, origin_of

pytestmark = pytest.mark.usefixtures("any_pixels")


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def flat(weight, bias=None):
    """A classifier whose features are the pixels."""
    head = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    head.weight.data = torch.tensor(weight)
    if bias is not None:
        head.bias.data = torch.tensor(bias)
    return Classifier(nn.Sequential(OrderedDict(flat=nn.Flatten(), head=head)).double().eval())


def pixels(rows):
    return rows[:, :, None, None]


NET = flat([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [0.1, -0.2])
ORIGIN = double(-0.1, 0.2, 0)  # where both logits are 0
OFF = double([2, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 0.5], [0, 0, -0.5])


def fitted(**options):
    return fit_vim(NET, pixels(ORIGIN + OFF), dim=2, **options)


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_fit_by_hand(batch_size):
    # moment diag(8, 2, 0.5): the third axis is left. Largest logits 2, 0, 1, 0, 0, 0, mean 1/2; residuals 0, 0, 0, 0,
    # 1/2, 1/2, mean 1/6: alpha = 3
    detector = fitted(batch_size=batch_size)
    torch.testing.assert_close(detector.origin, ORIGIN.to(detector.origin))
    torch.testing.assert_close(detector.residual.abs(), double([0], [0], [1]).to(detector.residual))
    assert detector.alpha == pytest.approx(3)


def test_score_by_hand():
    # off the origin by (1, 0, -0.5): 3 * 0.5 - log(e + 1)
    x = pixels(ORIGIN + double([1, 0, -0.5]))
    assert fitted()(x).item() == pytest.approx(1.5 - log(exp(1) + 1))


def test_it_orders_like_the_softmax_of_the_virtual_logit():
    detector, x = fitted(), pixels(torch.rand(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    logits, virtual = NET.logits(x), 3 * x[:, 2, 0, 0].abs()
    wanted = torch.cat([logits, virtual[:, None]], dim=1).softmax(dim=1)[:, -1]
    torch.testing.assert_close(detector(x).sigmoid(), wanted)


def test_without_a_bias_the_origin_is_zero():
    assert origin_of(flat([[1.0, 2.0]])).tolist() == [0, 0]


def test_origin_is_the_shortest_least_squares_solution():
    # three logits of two features: W u = -b cannot hold; the residual is orthogonal to the columns of W
    net = flat([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [0.3, -0.2, 0.5])
    head = net.network.head
    assert (head.weight.T @ (head.weight @ origin_of(net) + head.bias)).abs().max() < 1e-12


def test_nothing_beside_the_principal_space_leaves_the_energy():
    detector, x = fitted(), pixels(double([0.4, 0.3, 0]))
    torch.testing.assert_close(detector(x), energy(NET.logits(x)))


def test_the_gradient_is_finite_where_the_residual_vanishes():
    x = pixels(ORIGIN[None].clone()).requires_grad_()
    (gradient,) = torch.autograd.grad(fitted()(x).sum(), x)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize(("width", "dim"), [(2, 1), (64, 32), (512, 256), (640, 512), (768, 512), (2048, 1000)])
def test_default_dimension(width, dim):
    assert default_dim(width) == dim


@pytest.mark.parametrize(("n", "dim"), [(2, 1), (9, 4), (63, 31), (64, 32), (100, 32)])
def test_few_images_lower_the_default_dimension(n, dim):
    x = torch.rand(n, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.rand(3, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    detector = fit_vim(flat(weight.tolist()), pixels(x), batch_size=7)
    assert detector.residual.shape == (64, 64 - dim) and 0 < detector.alpha < 1e3


def test_refuses_what_does_not_fit():
    x = pixels(ORIGIN + OFF)
    with pytest.raises(ValueError, match=r"`dim` must be in 1..2, below the number of features, got 3"):
        fit_vim(NET, x, dim=3)
    with pytest.raises(ValueError, match=r"`dim` must leave features something beside the principal space, got 2"):
        fit_vim(NET, x[:4], dim=2)
    with pytest.raises(
        ValueError, match=r"got 2, which holds those of all 4 images\. Pass more images, or lower `dim`"
    ):
        fit_vim(NET, x[:4], dim=2)
    with pytest.raises(ValueError, match=r"`origin` and `residual` must be \(3,\) and \(3, D - dim\), got \(2,\)"):
        ViM(NET, double(0, 0), torch.eye(3), alpha=1.0)
    with pytest.raises(ValueError, match=r"`alpha` must be finite, got nan"):
        ViM(NET, ORIGIN, torch.eye(3), alpha=float("nan"))
    conv = Classifier(nn.Sequential(OrderedDict(head=nn.Conv2d(2, 2, 3, padding=1), flat=nn.Flatten())), head="head")
    with pytest.raises(ValueError, match=r"`net` must have an `nn.Linear` or 1 x 1 convolution as head, got Conv2d"):
        fit_vim(conv, torch.rand(4, 2, 1, 1))
