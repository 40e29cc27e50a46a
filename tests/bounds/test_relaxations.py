"""Linear bounds and slopes of single activations, entry by entry, at ends and insides of their boxes: nothing hides."""

import pytest
import torch
from small_networks import DOUBLE
from torch import nn

from oodattack.bounds.ball import Interval
from oodattack.bounds.bend import Bend
from oodattack.bounds.peak import peak

POOLS = {
    "apart": nn.MaxPool2d(2),
    "overlapping": nn.MaxPool2d(3, stride=2, padding=1),
    "rounded-up": nn.MaxPool2d(2, ceil_mode=True),
    "spaced": nn.MaxPool2d(2, stride=1, dilation=2),
}


def box(shape, seed):
    """Boxes on either side of 0 and across it, some of no width."""
    draw = torch.Generator().manual_seed(seed)
    ends = torch.randn(2, *shape, generator=draw, dtype=DOUBLE)
    low, high = ends.amin(dim=0), ends.amax(dim=0)
    return Interval(low, torch.where(torch.rand(shape, generator=draw) < 0.1, low, high))


def inside(z, count, seed):
    """Points of a box, most of their entries at its ends."""
    draw = torch.Generator().manual_seed(seed)
    share = (3 * torch.rand(count, *z.lower.shape, generator=draw, dtype=DOUBLE) - 1).clamp(0, 1)
    return z.lower + share * (z.upper - z.lower)


def assert_below(step, z):
    """<a, h> >= <a', z> + c for a = +e_s and -e_s, and both meet somewhere in the box."""
    out = step.point(z.lower)
    size = out[0].numel()
    for sign in (1.0, -1.0):
        a = (sign * torch.eye(size, dtype=DOUBLE)).view(1, size, *out.shape[1:])
        (part,), constant = step.lower(a, z)
        seen = inside(z, 300, 1)
        line = torch.einsum("bsd,nbd->nbs", part.flatten(2), seen.flatten(2)) + constant
        value = sign * torch.stack([step.point(each) for each in seen]).flatten(2)
        assert (value >= line - 1e-12).all()
        yield value - line


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_lines_below_and_above_an_activation(slope):
    for gap in assert_below(Bend(slope), box((3, 2, 3, 3), 0)):
        assert gap.amin(dim=0).max() < 0.2  # they touch it, but for the ends that were not drawn


def test_lines_of_a_relu_by_hand():
    # on [-1, 3]: h <= 3/4 (z + 1), h >= z as 3 > 1; on [-3, 1]: h <= 1/4 (z + 3), h >= 0
    z = Interval(torch.tensor([[-1.0, -3.0]], dtype=DOUBLE), torch.tensor([[3.0, 1.0]], dtype=DOUBLE))
    (below,), zero = Bend(0.0).lower(torch.ones(1, 1, 2, dtype=DOUBLE), z)
    assert below.flatten().tolist() == [1.0, 0.0] and zero.item() == 0.0
    (above,), constant = Bend(0.0).lower(-torch.ones(1, 1, 2, dtype=DOUBLE), z)
    assert above.flatten().tolist() == [-0.75, -0.25] and constant.item() == -1.5  # -3/4 - 3/4


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_lines_below_and_above_a_maximum(pool):
    z = box((2, 3, 5, 5), 2)
    step = peak(pool, (3, 5, 5))
    torch.testing.assert_close(step.point(z.upper), pool(z.upper))
    for _ in assert_below(step, z):
        pass
    narrow = Interval(z.lower, z.lower + 1e-3)  # mostly one entry that no other can pass: then the lines are exact
    gaps = list(assert_below(step, narrow))
    assert (gaps[0].amax(dim=0) < 1e-9).double().mean() > 1 / 20 and max(gap.max() for gap in gaps) < 2e-3


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_slopes_hold_every_derivative(slope):
    z = box((2, 1, 4, 4), 3)
    draw = torch.Generator().manual_seed(4)
    for step in (Bend(slope), *(peak(pool, (1, 4, 4)) for pool in POOLS.values())):
        out = step.point(z.lower)
        low = torch.randn(2, 5, *out.shape[1:], generator=draw, dtype=DOUBLE)
        a = Interval(low, low + torch.rand(low.shape, generator=draw, dtype=DOUBLE))
        (found,) = step.slopes(a, z)
        for each in inside(z, 50, 5):
            own = a.lower + torch.rand(low.shape, generator=draw, dtype=DOUBLE) * (a.upper - a.lower)
            for s in range(5):
                leaf = each.clone().requires_grad_()
                (gradient,) = torch.autograd.grad((own[:, s] * step.point(leaf)).sum(), leaf)
                assert (gradient >= found.lower[:, s] - 1e-12).all()
                assert (gradient <= found.upper[:, s] + 1e-12).all()
