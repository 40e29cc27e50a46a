"""Which term of a loss gets which number of a recipe, on a linear network whose terms are computed by hand."""

import math
from dataclasses import replace

import pytest
import torch

from oodattack.train import RECIPES
from oodattack.train.losses import Batch, batch_terms

# logits (x, -x) of an image of one pixel x, in double precision
WEIGHT = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)


def net(x):
    return x.flatten(1) @ WEIGHT.T


def pixels(*values):
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def terms(objective, *, x=(0.5, 0.25), y=(0, 1), aux=(0.0, 1.0), network=net, **changes):
    recipe = replace(RECIPES[objective], **changes)
    batch = Batch(pixels(*x), torch.tensor(y), None if aux is None else pixels(*aux))
    found = batch_terms(network, recipe, batch, torch.Generator().manual_seed(0))
    return {name: value.item() for name, value in found.items()}


def soft(a):
    return math.log1p(math.exp(a))


# -log softmax of (x, -x): log(1 + e^(-2x)) for class 0, log(1 + e^(2x)) for class 1
CE = (soft(-1.0) + soft(0.5)) / 2


def energy(x):
    return -math.log(math.exp(x) + math.exp(-x))


@pytest.mark.parametrize("objective", ["ce", "gq", "energy", "oe"])
def test_cross_entropy_of_id_images(objective):
    assert terms(objective)["ce"] == pytest.approx(CE)


def test_gradient_quotient():
    # the image's gradients of its own logit and of the other are 1 and -1: quotient 2 / 2
    assert terms("gq", weight=0.3)["quotient"] == pytest.approx(0.3)


def test_the_readings_of_the_quotient_differ_for_three_classes():
    weight = torch.tensor([[1.0], [-1.0], [3.0]], dtype=torch.float64)
    found = [
        terms("gq", x=(0.5,), y=(0,), weight=1.0, quotient=quotient, network=lambda x: x.flatten(1) @ weight.T)
        for quotient in ("code", "paper")
    ]
    assert found[0]["quotient"] == pytest.approx(1 / 2)  # |1| / |-1 + 3|
    # dS_j = S_j (w_j - mean): mean of (1, -1, 3) under softmax(.5, -.5, 1.5)
    s = torch.tensor([0.5, -0.5, 1.5]).softmax(0).tolist()
    mean = s[0] - s[1] + 3 * s[2]
    own, others = abs(s[0] * (1 - mean)), abs(s[1] * (-1 - mean)) + abs(s[2] * (3 - mean))
    assert found[1]["quotient"] == pytest.approx(own / others, rel=1e-5)


def test_energy_margins():
    # ID: E - m_in, outliers: m_aux - E, where positive, squared, means added, times the weight
    found = terms("energy", weight=0.2, margin_id=-0.9, margin_aux=-0.7)
    hinge_id = [max(0.0, energy(x) + 0.9) ** 2 for x in (0.5, 0.25)]
    hinge_aux = [max(0.0, -0.7 - energy(x)) ** 2 for x in (0.0, 1.0)]
    assert sum(hinge_id) > 0 and hinge_aux[0] == 0 and hinge_aux[1] > 0
    assert found["energy"] == pytest.approx(0.2 * (sum(hinge_id) / 2 + sum(hinge_aux) / 2))


@pytest.mark.parametrize("objective", ["energy", "greg", "greg+", "poem"])
def test_gradient_term_of_energies(objective):
    # |dE/dx| = tanh x; ID rows below m_in (E(.5) = -.813) and outliers above m_aux (E(0) = -.693, whose gradient is 0,
    # and E(.2) = -.713) count. Authors' scaling: (mean over 2 ID + mean over 2 outliers) / 4
    found = terms(objective, aux=(0.2, 1.0), penalty=3.0, margin_id=-0.8, margin_aux=-0.72)
    expected = 3 * (math.tanh(0.5) / 2 + math.tanh(0.2) / 2) / 4
    assert found["gradient"] == pytest.approx(expected)
    assert "gradient" not in terms(objective, penalty=0.0)


def test_outlier_exposure():
    # cross-entropy to uniform: mean over outliers of logsumexp - mean logit = -E
    assert terms("oe", weight=0.5)["uniform"] == pytest.approx(-0.5 * (energy(0.0) + energy(1.0)) / 2)


def test_the_gradient_term_of_outlier_exposure():
    # KL(U | softmax) = log cosh x, gradient tanh x; ID rows of .5 log 2 and more (x = 1) and outliers of .1 log 2 and
    # less (x = .2) count, in the authors' scaling
    found = terms("oe", x=(1.0, 0.25), aux=(0.2, 1.0), penalty=3.0)["gradient"]
    assert found == pytest.approx(3 * (math.tanh(1.0) / 2 + math.tanh(0.2) / 2) / 4)


@pytest.mark.parametrize(("of_id", "rows_id"), [(0.45, 0), (0.55, 1)])
@pytest.mark.parametrize(("of_aux", "rows_aux"), [(0.08, 1), (0.12, 0)])
def test_outlier_exposure_penalises_the_rows_that_it_tells_apart(of_id, rows_id, of_aux, rows_aux):
    # ID rows from a divergence of .5 log 2 on, outliers up to .1 log 2, one row each; log cosh x = share log 2
    x, aux = (math.acosh(2**share) for share in (of_id, of_aux))
    found = terms("oe", x=(x,), y=(0,), aux=(aux,), penalty=3.0)["gradient"]
    assert found == pytest.approx(3 * (rows_id * math.tanh(x) + rows_aux * math.tanh(aux)) / 2)


# logits (x, -x, 0), the last one for outliers: softmax (e^x, e^-x, 1) / z
WITH_CLASS = torch.tensor([[1.0], [-1.0], [0.0]], dtype=torch.float64)


def net_k(x):
    return x.flatten(1) @ WITH_CLASS.T


def log_z(x):
    return math.log(math.exp(x) + math.exp(-x) + 1)


def slope(x):
    return (math.exp(x) - math.exp(-x)) / math.exp(log_z(x))


CE_K = (log_z(0.5) - 0.5 + log_z(0.25) + 0.25) / 2  # of classes 0 and 1


def test_outlier_class():
    # outliers cost log z
    expected = {"ce": CE_K, "outlier class": 2 * (log_z(0.0) + log_z(1.0)) / 2}
    assert terms("dos", weight=2.0, network=net_k) == pytest.approx(expected)


def test_gradient_term_of_the_outlier_class():
    # d/dx (log z - x) = slope - 1, of class 1 slope + 1; of outliers the slope times the weight; (mean + mean) / 4
    found = terms("dos", weight=0.5, penalty=3.0, network=net_k)["gradient"]
    of_id = abs(slope(0.5) - 1) + abs(slope(0.25) + 1)
    assert found == pytest.approx(3 * (of_id / 2 + 0.5 * (slope(0.0) + slope(1.0)) / 2) / 4)


def test_mixtures():
    seen = []

    def spy(x):
        seen.append(x)
        return net_k(x)

    found = terms("openmix", aux=(0.0, 1.0, 0.9, 0.9), weight=2.0, network=spy)  # the first outliers are taken
    (x,) = seen
    mixed = x[2:].flatten().tolist()
    share = mixed[0] / 0.5  # of .5, the rest of 0
    # Beta(10, 10), whose draw is the median of 19 uniform numbers
    drawn = torch.rand(19, generator=torch.Generator().manual_seed(0), dtype=torch.float64).median().item()
    assert share == pytest.approx(drawn)
    assert mixed[1] == pytest.approx(share * 0.25 + (1 - share) * 1.0)  # the same share for all rows
    own = [log_z(mixed[0]) - mixed[0], log_z(mixed[1]) + mixed[1]]
    cost = [share * a + (1 - share) * log_z(m) for a, m in zip(own, mixed, strict=True)]
    assert found == pytest.approx({"ce": CE_K, "mixtures": 2 * sum(cost) / 2})


@pytest.mark.parametrize("objective", ["energy", "greg", "oe", "dos", "openmix"])
def test_outliers_must_be_there(objective):
    with pytest.raises(ValueError, match=f"`aux` must hold auxiliary outliers for {objective}, got none"):
        terms(objective, aux=None)
