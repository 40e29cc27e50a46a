"""Detectors that look into the head, where that is a convolution of 1 x 1."""

from collections import OrderedDict

import pytest
import torch
from small_rows import ROWS
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors import Fit
from oodattack.detectors.linear_head import head_of
from oodattack.detectors.vim import fit_vim

X, Y = torch.rand(40, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4


def classifier(*, convolution, pool=True):
    """The same network with a head of two kinds."""
    torch.manual_seed(0)
    body = OrderedDict(conv=nn.Conv2d(3, 8, 3, 2), norm=nn.BatchNorm2d(8), relu=nn.ReLU())
    linear = nn.Linear(8, 4)
    end = OrderedDict(flat=nn.Flatten(), head=linear)
    if convolution:
        end = OrderedDict(head=nn.Conv2d(8, 4, 1), last=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
        end["head"].weight.data, end["head"].bias.data = linear.weight.data[..., None, None], linear.bias.data
    body |= {"pool": nn.AdaptiveAvgPool2d(1)} if pool else {}
    return Classifier(nn.Sequential(body | end).eval(), head="head")


@pytest.mark.parametrize("name", ["vim", "pnml", "dice", "line", "react", "gradnorm", "gaia-a", "si-a"])
def test_a_head_of_convolutions_scores_as_a_linear_one(name):
    found, wanted = (ROWS[name].build(classifier(convolution=c), Fit(X, Y, None)) for c in (True, False))
    torch.testing.assert_close(found(X), wanted(X))
    leaf = X[:3].clone().requires_grad_()
    stand_in = found.surrogate.score if hasattr(found, "surrogate") else found
    (gradient,) = torch.autograd.grad(stand_in(leaf).sum(), leaf)
    assert gradient.isfinite().all() and (gradient != 0).any()


def test_other_heads_are_refused():
    with pytest.raises(ValueError, match=r"head 'head' must take 8 features, got 200: more than one position"):
        fit_vim(classifier(convolution=True, pool=False), X)
    for other in (nn.Conv2d(8, 4, 1, groups=2), nn.Conv2d(8, 4, 3, padding=1), nn.BatchNorm2d(8)):
        net = classifier(convolution=True)
        net.network.head = other
        with pytest.raises(ValueError, match=r"`net` must have an `nn.Linear` or 1 x 1 convolution as head, got"):
            head_of(net)


class InItsOwnPrecision(nn.Module):
    def __init__(self, network, dtype):
        super().__init__()
        self.network, self.dtype = network.to(dtype), dtype

    def forward(self, x):
        return self.network(x.to(self.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["vim", "pnml", "dice", "line", "react", "gradnorm"])
def test_a_network_may_compute_in_another_precision_than_the_images_have(name, dtype):
    inside = InItsOwnPrecision(classifier(convolution=False).network, dtype).eval()
    found = ROWS[name].build(Classifier(inside, head="network.head"), Fit(X, Y, None))
    wanted = ROWS[name].build(classifier(convolution=False), Fit(X, Y, None))
    leaf = X.clone().requires_grad_()
    stand_in = found.surrogate.score if hasattr(found, "surrogate") else found
    (gradient,) = torch.autograd.grad(stand_in(leaf).sum(), leaf)
    assert found(X).dtype == X.dtype and gradient.isfinite().all() and (gradient != 0).any()
    if dtype == torch.float64:
        torch.testing.assert_close(found(X), wanted(X), rtol=1e-3, atol=1e-4)
    else:
        assert torch.corrcoef(torch.stack([found(X), wanted(X)]))[0, 1] > 0.9
