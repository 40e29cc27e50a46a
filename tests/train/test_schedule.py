"""Learning rates and first updates, by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from oodattack.train import PAPERS, Recipe, fit
from oodattack.train.schedule import factor, make_optimiser, make_schedule

BASE = Recipe(objective="ce", epochs=4, lr=0.1, batch_size=8)


def rates(recipe: Recipe, steps: int) -> list[float]:
    """The learning rate in each step of all epochs."""
    weight = nn.Parameter(torch.zeros(1))
    optimiser = make_optimiser([weight], recipe)
    schedule = make_schedule(optimiser, recipe, steps)
    found = []
    for _ in range(recipe.epochs * steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return found


def test_steps():
    # milestones after half and three quarters of 4 epochs, 2 steps each: factors 1, 1 | 1, 1 | .1, .1 | .01, .01
    recipe = replace(BASE, schedule="steps", milestones=(0.5, 0.75))
    assert rates(recipe, 2) == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert rates(replace(recipe, decay=0.5), 2)[-1] == pytest.approx(0.025)
    assert rates(replace(recipe, milestones=()), 2) == pytest.approx([0.1] * 8)


def test_cosine_falls_each_step():
    # (1 + cos(pi t / 8)) / 2 at t = 0, 4, 6: 1, 1/2, (1 - cos(pi / 4)) / 2 = 0.14645
    found = rates(replace(BASE, schedule="cosine"), 2)
    assert [found[0], found[4], found[6]] == pytest.approx([0.1, 0.05, 0.0146447], rel=1e-5)
    assert found == sorted(found, reverse=True) and len(set(found)) == 8


def test_cosine_falls_to_its_end():
    # low = .02 / .1 = .2; halfway .2 + .8 / 2 = .6
    recipe = replace(BASE, schedule="cosine", lr_end=0.02)
    assert rates(recipe, 2)[4] == pytest.approx(0.06)
    assert recipe.lr * factor(recipe, 8, 2) == pytest.approx(0.02)


def test_cosine_of_epochs_is_constant_within_them():
    # (1 + cos(pi e / 4)) / 2 = 1, .85355, .5, .14645
    found = rates(replace(BASE, schedule="cosine-epochs"), 3)
    assert found == pytest.approx([0.1] * 3 + [0.0853553] * 3 + [0.05] * 3 + [0.0146447] * 3, rel=1e-5)


def test_warm_up_is_linear():
    # steps 0..3 of 4: 0, 1/4, 2/4, 3/4, and then whole
    recipe = replace(BASE, schedule="steps", warmup=4)
    assert rates(recipe, 2) == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1])
    recipe = replace(BASE, schedule="cosine", warmup=4)
    assert rates(recipe, 2)[2] == pytest.approx(0.1 * 0.5 * 0.8535534)  # (1 + cos(pi / 4)) / 2


def test_one_cycle_rises_to_the_learning_rate_and_falls():
    # from lr / 25 over 30 % of 40 steps, to a 10^4th of where it began
    found = rates(replace(BASE, epochs=4), 10)
    assert found[0] == pytest.approx(0.004)
    assert max(found) == found[11] == pytest.approx(0.1)
    assert found[-1] == pytest.approx(0.004e-4)


def test_schedules_of_papers():
    # outlier exposure: 1e-6 at the end of 100 epochs; GReg+: a tenth from epoch 50 of 60; JEM: 1000 steps of warm-up
    assert 0.1 * factor(PAPERS["ce-cifar"], 100 * 391, 391) == pytest.approx(1e-6)
    assert [factor(PAPERS["greg+-cifar"], 782 * epoch, 782) for epoch in (0, 49, 50, 59)] == [1, 1, 0.1, 0.1]
    assert [factor(PAPERS["dos-cifar"], 782 * e, 782) for e in (49, 50, 75, 90)] == pytest.approx([1, 0.1, 0.01, 0.001])
    assert [factor(PAPERS["poem-cifar-100"], e, 1) for e in (59, 60, 119, 120, 180)] == pytest.approx(
        [1, 0.1, 0.1, 0.01, 0.001]
    )
    assert factor(PAPERS["jem-cifar"], 500, 782) == 0.5


UPDATES = {  # weight 1, gradient 2, lr .1, decay .5: with it, the gradient is 2.5
    "nesterov": ({"nesterov": True}, 1 - 0.1 * (2.5 + 0.9 * 2.5)),
    "plain momentum": ({"nesterov": False}, 1 - 0.1 * 2.5),
    "adam": ({"optimiser": "adam"}, 1 - 0.1),  # the first step is the sign
}


@pytest.mark.parametrize(("changes", "expected"), UPDATES.values(), ids=UPDATES)
def test_first_update(changes, expected):
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimiser = make_optimiser([weight], replace(BASE, weight_decay=0.5, **changes))
    (2 * weight).sum().backward()
    optimiser.step()
    assert weight.item() == pytest.approx(expected)


def test_momentum_of_the_second_update():
    # v1 = 2, w1 = 1 - .2; v2 = .9 * 2 + 2 = 3.8, w2 = .8 - .38
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimiser = make_optimiser([weight], replace(BASE, weight_decay=0.0, nesterov=False))
    for _ in range(2):
        optimiser.zero_grad()
        (2 * weight).sum().backward()
        optimiser.step()
    assert weight.item() == pytest.approx(0.42)


def test_the_curve_shows_the_learning_rate_after_each_epoch(tiny, data, brief):
    recipe = brief("ce", epochs=3, schedule="steps", milestones=(1 / 3, 2 / 3))
    fitted = fit(tiny(), recipe, data, seed=0)
    assert [line["lr"] for line in fitted.curve] == pytest.approx([0.01, 0.001, 0.001])
    assert [line["epoch"] for line in fitted.curve] == [1, 2, 3]
