import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodattack.objectives.gradient_quotient import _quotient, gradient_quotient

DOUBLE = torch.float64
ALLOWED = [("logits", "norm-of-sum"), ("logits", "sum-of-norms"), ("softmax", "sum-of-norms")]
# three classes of a linear model on inputs of two pixels
WEIGHT = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.5, 0.5]], dtype=DOUBLE)


def smooth_net(seed, *, classes=4, rows=5, pixels=6):
    """Logits, labels and inputs of a random two-layer tanh net."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=DOUBLE)
    x = torch.rand(rows, 1, 2, pixels // 2, generator=draw, dtype=DOUBLE).requires_grad_()
    inner, outer = normal(pixels, 7).requires_grad_(), normal(7, classes)
    logits = (x.flatten(1) @ inner).tanh() @ outer
    return logits, torch.randint(classes, (rows,), generator=draw), x, inner


@pytest.mark.parametrize(
    ("operand", "denominator", "labels", "expected"),
    [
        # one row, y = 0: |1| + |2| = 3 over |3 + 0.5| + |-4 + 0.5| = 7
        ("logits", "norm-of-sum", [0], 3 / 7),
        # (|3| + |-4|) + (|0.5| + |0.5|) = 8
        ("logits", "sum-of-norms", [0], 3 / 8),
        # batch totals before the ratio. y = 1: 7 over |1 + 0.5| + |2 + 0.5| = 4, so (3 + 7) / (7 + 4)
        ("logits", "norm-of-sum", [0, 1], 10 / 11),
        # y = 1: 3 + 1 = 4, so (3 + 7) / (8 + 4); the mean of the rows' ratios would be (3/8 + 7/4) / 2
        ("logits", "sum-of-norms", [0, 1], 10 / 12),
        # at x = 0 all p = 1/3 and grad p_j = (w_j - mean w) / 3 with mean w = (1.5, -0.5): norms 3/3, 5/3, 2/3
        ("softmax", "sum-of-norms", [0], 3 / (5 + 2)),
        ("softmax", "sum-of-norms", [0, 1], (3 + 5) / (7 + 5)),
    ],
)
def test_linear_model_by_hand(operand, denominator, labels, expected):
    x = torch.zeros(len(labels), 1, 1, 2, dtype=DOUBLE, requires_grad=True)
    found = gradient_quotient(
        x.flatten(1) @ WEIGHT.T, torch.tensor(labels), x, operand=operand, denominator=denominator
    )
    assert found.shape == ()
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_default_is_the_authors_code():
    logits, y, x, _ = smooth_net(0)
    explicit = gradient_quotient(logits, y, x, operand="logits", denominator="norm-of-sum")
    assert gradient_quotient(logits, y, x).item() == explicit.item()
    assert gradient_quotient(logits, y, x, denominator="sum-of-norms").item() < explicit.item() - 1e-3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_softmax_with_norm_of_sum_is_one_and_teaches_nothing(classes, seed):
    logits, y, x, inner = smooth_net(seed, classes=classes)
    found = _quotient(logits.softmax(dim=1), y, x, denominator="norm-of-sum")
    assert found.item() == pytest.approx(1, abs=1e-5)
    assert torch.autograd.grad(found, inner)[0].abs().max() < 1e-8


@pytest.mark.parametrize("seed", range(3))
def test_softmax_of_two_classes_is_one_with_either_denominator(seed):
    logits, y, x, _ = smooth_net(seed, classes=2)
    assert _quotient(logits.softmax(dim=1), y, x, denominator="sum-of-norms").item() == pytest.approx(1, abs=1e-5)


@given(seed=st.integers(0, 2**16), classes=st.integers(3, 6))
@settings(max_examples=15, deadline=None)
def test_softmax_with_sum_of_norms_is_at_most_one(seed, classes):
    logits, y, x, _ = smooth_net(seed, classes=classes)
    found = gradient_quotient(logits, y, x, operand="softmax", denominator="sum-of-norms").item()
    assert 0 <= found <= 1 + 1e-12


@pytest.mark.parametrize(("operand", "denominator"), ALLOWED)
def test_gradient_for_training_matches_finite_differences(operand, denominator):
    draw = torch.Generator().manual_seed(1)
    weights = [torch.randn(*shape, generator=draw, dtype=DOUBLE).requires_grad_() for shape in [(4, 5), (5, 3)]]
    pixels, y = torch.rand(3, 4, generator=draw, dtype=DOUBLE), torch.tensor([0, 2, 2])

    def loss(inner, outer):
        x = pixels.clone().requires_grad_()
        return gradient_quotient((x @ inner).tanh() @ outer, y, x, operand=operand, denominator=denominator)

    assert torch.autograd.gradcheck(loss, weights)
    assert all(g.abs().max() > 1e-3 for g in torch.autograd.grad(loss(*weights), weights))


def test_softmax_with_norm_of_sum_is_refused_with_the_reason():
    logits, y, x, _ = smooth_net(0)
    with pytest.raises(ValueError, match=r"`denominator` must be 'sum-of-norms'.*quotient is 1.*operand='logits'"):
        gradient_quotient(logits, y, x, operand="softmax")


def test_softmax_of_two_classes_is_refused():
    logits, y, x, _ = smooth_net(0, classes=2)
    with pytest.raises(ValueError, match="C >= 3 classes with operand 'softmax', got 2"):
        gradient_quotient(logits, y, x, operand="softmax", denominator="sum-of-norms")
    assert math.isfinite(gradient_quotient(logits, y, x).item())  # logits of two classes are fine


@pytest.mark.parametrize("denominator", ["norm-of-sum", "sum-of-norms"])
def test_zero_denominator_is_named(denominator):
    x = torch.rand(2, 3, dtype=DOUBLE, requires_grad=True)
    logits = x @ torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], dtype=DOUBLE)  # class 1 ignores x
    with pytest.raises(ValueError, match="must be > 0, got 0"):
        gradient_quotient(logits, torch.tensor([0, 0]), x, denominator=denominator)


def test_gradients_that_are_not_finite_are_named():
    x = torch.zeros(2, 3, dtype=DOUBLE, requires_grad=True)
    with pytest.raises(FloatingPointError, match="must be finite"):
        gradient_quotient(x.sqrt(), torch.tensor([0, 1]), x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operand": "log-softmax"}, r"`operand` must be one of \('logits', 'softmax'\), got 'log-softmax'"),
        ({"denominator": "sum"}, "`denominator` must be one of"),
        ({"logits": lambda a: a[:, :1]}, "C >= 2 classes, got 1"),
        ({"logits": lambda a: a[:3]}, r"a row for each of the 5 inputs, got \(3, 4\)"),
        ({"logits": lambda a: a.detach()}, "must require gradients, got True and False"),
        ({"y": lambda a: a[:3]}, r"`y` must have shape \(5,\)"),
        ({"y": lambda a: a.double()}, "dtype torch.int64"),
        ({"y": lambda a: torch.full_like(a, 4)}, r"`y` must be in 0\.\.3, got 4\.\.4"),
        ({"y": lambda a: torch.full_like(a, -1)}, r"`y` must be in 0\.\.3, got -1\.\.-1"),
        ({"x": lambda a: a.clone()}, "no path between them"),
    ],
)
def test_wrong_use_is_named(change, message):
    logits, y, x, _ = smooth_net(0)
    arguments = {"logits": logits, "y": y, "x": x}
    for key, value in change.items():
        arguments[key] = value(arguments[key]) if callable(value) else value
    with pytest.raises(ValueError, match=message):
        gradient_quotient(**arguments)
