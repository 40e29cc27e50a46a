"""Sums of z-scored detectors, and the surrogate that differentiates all parts."""

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors.energy import Energy
from oodattack.detectors.max_logit import MaxLogit
from oodattack.detectors.png_length import PngLength
from oodattack.detectors.si_z import SIZ
from oodattack.detectors.weighted_sum import WeightedSum, fit_weighted_sum
from oodattack.keep_graph import reaches
from oodattack.metrics import rank_correlation
from oodattack.models.small import SmallResNet


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def images(rows, seed=1):
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(rows, 1, 1, 1, generator=generator, dtype=torch.float64)
    return level * torch.rand(rows, 1, 32, 32, generator=generator, dtype=torch.float64)


def small():
    torch.manual_seed(0)
    network = SmallResNet(1, 3, width=4).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.05, 0.15)
            nn.init.normal_(module.bias, 0, 0.3)
    return Classifier(network.eval())


class Stepped:
    """10 times the number of pixels above 1/2, with a surrogate of its own scale: their mean."""

    def __init__(self):
        self.surrogate = Surrogate("mean", lambda x: x.flatten(1).mean(1))

    def __call__(self, x):
        return 10 * (x > 0.5).flatten(1).sum(1)  # whole numbers


def first(x):
    return x.flatten(1)[:, 0]


X = double([0.2, 0.0], [0.6, 0.4], [1.0, 0.8]).view(3, 1, 1, 2)  # counts 0, 1, 2; means 0.1, 0.5, 0.9; firsts 0.2 .. 1


def test_sum_by_hand():
    found = WeightedSum({"a": Stepped(), "b": first}, means=[10, 0.6], stds=[10, 0.4])
    torch.testing.assert_close(found(X), double(-1 - 1, 0, 1 + 1))
    torch.testing.assert_close(found.latent(X), double([-1, -1], [0, 0], [1, 1]))
    assert found.name == "a+b"


def test_scales_are_fitted_for_scores_and_surrogates_apart():
    # std of 0, 10, 20 is 10 and of the firsts 0.4; the surrogate's own std is 0.4, not 10
    found = fit_weighted_sum({"a": Stepped(), "b": first}, X, batch_size=2)
    torch.testing.assert_close(found(X), double(-2, 0, 2))
    torch.testing.assert_close(found.surrogate.latent(X), double([-1, -1], [0, 0], [1, 1]))
    torch.testing.assert_close(found.surrogate.score(X), double(-2, 0, 2))
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(found.surrogate.score(x).sum(), x)
    torch.testing.assert_close(gradient[0, 0, 0], double(0.5 / 0.4 + 1 / 0.4, 0.5 / 0.4))  # both parts count
    assert found.surrogate.name == "sum of mean and b itself" and not found.surrogate.exact


def test_a_sum_of_detectors_with_gradients_needs_no_surrogate():
    net = small()
    found = fit_weighted_sum({"max-logit": MaxLogit(net), "energy": Energy(net)}, images(20))
    assert not hasattr(found, "surrogate")
    x = images(3, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(found(x).sum(), x)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


def ten_means(x):
    return 10 * x.mean(dim=(1, 2, 3))


class Hidden(nn.Module):
    """A score whose gradient is cut off."""

    def forward(self, x):
        with torch.no_grad():
            return ten_means(x)


def test_a_part_that_hides_its_gradient_is_followed_all_the_same():
    net, x = small(), images(3).requires_grad_()
    hidden, open_ = (WeightedSum({"si-z": SIZ(net), "mine": part}, [0, 0], [1, 1]) for part in (Hidden(), ten_means))
    (found,) = torch.autograd.grad(hidden.surrogate.score(x).sum(), x)
    (wanted,) = torch.autograd.grad(open_.surrogate.score(x).sum(), x)
    torch.testing.assert_close(found, wanted)
    alone = WeightedSum({"si-z": SIZ(net)}, [0], [1])
    (without,) = torch.autograd.grad(alone.surrogate.score(x).sum(), x)
    assert not torch.allclose(found, without)


def test_a_part_without_a_gradient_leaves_no_gradient_of_the_others():
    numpy = lambda x: torch.from_numpy(x.detach().numpy()).mean(dim=(1, 2, 3))
    found = WeightedSum({"si-z": SIZ(small()), "mine": numpy}, [0, 0], [1, 1])
    assert not reaches(found.surrogate.score, images(1))
    assert found.surrogate.score(images(2)).shape == (2,)


def test_plain_sum_is_the_complexity_score():
    # S = NLL - L: means 0, stds 1
    x = images(4)
    found = WeightedSum({"nll": first, "png-length": PngLength()}, [0, 0], [1, 1])
    torch.testing.assert_close(found(x), first(x) + PngLength()(x))
    torch.testing.assert_close(found.surrogate.score(x), found(x))


def test_si_and_max_logit_as_one():
    net, x = small(), images(60)
    parts = {"si-z": SIZ(net), "max-logit": MaxLogit(net)}
    found = fit_weighted_sum(parts, x)
    assert found.name == "si-z+max-logit" and found.net is net and not found.training
    assert set(map(id, found.parameters())) == set(map(id, net.parameters()))
    other = images(40, 2)
    z = torch.stack([(part(other) - part(x).mean()) / part(x).std() for part in parts.values()], dim=1)
    torch.testing.assert_close(found(other), z.sum(1))
    assert rank_correlation(found.surrogate.score(other).detach(), found(other)) > 0.9
    whole = found.surrogate.score(other[:5]).detach()
    torch.testing.assert_close(torch.cat([found.surrogate.score(row[None]).detach() for row in other[:5]]), whole)


def test_attack_through_the_sum_moves_both_parts():
    net = small()
    parts = {"si-z": SIZ(net), "max-logit": MaxLogit(net)}
    found, x = fit_weighted_sum(parts, images(40)), images(6, 3)
    z = x
    for _ in range(25):
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(found.surrogate.score(z).sum(), z)
        z = (x + (z - 0.02 * gradient.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    assert (found(z.detach()) < found(x) - 1).all()
    for part in parts.values():
        assert part(z.detach()).mean() < part(x).mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({}, [], []), "`parts` must have at least one detector"),
        (({"a": first}, [0, 0], [1]), "`means` and `stds` must have one number a part, got 2 and 1 for 1"),
        (({"a": first}, [0], [0]), r"`stds` must be > 0, got \[0\]"),
        (({"a": first, "b": first}, [0, 0], [1, float("nan")]), r"`stds` must be > 0, got \[1, nan\]"),
    ],
)
def test_wrong_use_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        WeightedSum(*arguments)


def test_a_constant_part_is_refused():
    with pytest.raises(ValueError, match="must have scores that vary over ID images, got std 0"):
        fit_weighted_sum({"a": first, "flat": lambda x: 0 * first(x)}, X)
