"""Algorithm 1 of Liang et al. 2020, step by step against torch's own Adamax; schedules of steps and judges by hand."""

import pytest
import torch

from oodattack.aims import mape, match
from oodattack.attack import Seen, judgements, maximise
from oodattack.attacks.adamax import adamax
from oodattack.attacks.apgd import State, apgd, checkpoints
from oodattack.attacks.pgd_decay import pgd_decay
from oodattack.geometry import row_random, sphere
from oodattack.threat import ThreatModel, read_threat

EPS, STEPS = 0.7, 25


def test_adamax_follows_the_paper_step_by_step():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 4, 4, generator=generator, dtype=torch.float64)
    encode = torch.randn(16, 5, generator=generator, dtype=torch.float64)
    f = lambda images: (images.flatten(1) @ encode).tanh()
    z_in = f(torch.rand(3, 1, 4, 4, generator=generator, dtype=torch.float64))

    threat = read_threat("liang-latent").model_copy(update={"eps": EPS, "queries": STEPS + 1, "iterate": "last"})
    random = row_random(0, "t", range(3), "cpu", x.dtype)
    found = maximise(match(f, z_in), x, threat, adamax(step_size=0.01), random, keep_clean=False)

    # the same by hand, with the library's optimiser
    noise = sphere(row_random(0, "t", range(3), "cpu", x.dtype), (1, 4, 4), EPS, "l2")
    delta = ((x + noise).clamp(0, 1) - x).detach()
    optimiser = torch.optim.Adamax([delta], lr=EPS / 100)
    for _ in range(STEPS):
        images = (x + delta).requires_grad_()
        (grad,) = torch.autograd.grad((f(images) - z_in).square().sum(), images)
        delta.grad = grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        optimiser.step()
        with torch.no_grad():
            size = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            delta.mul_((EPS / size).clamp(max=1))  # ball first
            delta.copy_((x + delta).clamp(0, 1) - x)  # box second, written back
    torch.testing.assert_close(found.x_adv, x + delta, rtol=0, atol=1e-9)


def test_the_start_is_on_the_sphere():
    noise = sphere(row_random(0, "t", range(4), "cpu", torch.float64), (3, 32, 32), 10.0, "l2")
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), torch.full((4,), 10.0, dtype=torch.float64))


def test_mape_by_hand():
    z_in = torch.tensor([[1.0, -4.0], [2.0, 0.0]])
    z_out = torch.tensor([[2.0, -4.0], [2.0, 0.0]])
    # row 0: mean(|1|, |0|) = 0.5, over max |z_in| = 4; row 1 is matched
    torch.testing.assert_close(mape(z_in, z_out), torch.tensor([0.125, 0.0]))


def test_apgd_checkpoints_by_hand():
    # p = 0, .22, .41, .57, .70, .80, .87, .93, .99 (differences shrink by .03 down to .06)
    assert checkpoints(100) == (0, 22, 41, 57, 70, 80, 87, 93, 99)


def test_decaying_steps_by_hand():
    # 2 eps (1 - t / 4)^1.5 = 2, 1.2990, 0.7071, 0.25 times eps = 0.1, a quarter of each step for the one before it
    threat = ThreatModel(
        name="t", norm="l2", eps=0.1, aim="raise", objective="score", start="ood", init="clean", attack="pgd-decay",
        queries=5, restarts=1, iterate="best", source="test",
    )  # fmt: skip
    x, attack = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64), pgd_decay()
    random = row_random(0, "t", [0], "cpu", x.dtype)
    x_adv, state = attack.start(x, threat, random, 4)
    found = []
    for slope in (1.0, -1.0, 1.0):
        x_adv, state = attack.step(Seen(x_adv, x.new_zeros(1), torch.full_like(x, slope)), x, threat, random, state)
        x_adv = threat.project(x_adv, x)
        found.append(x_adv.item())
    # 0.5 + 0.2, cut to 0.6; then z = 0.6 - 0.12990 = 0.4701, 0.6 + 0.75 (z - 0.6) + 0.25 (0.6 - 0.5); last z = 0.5983
    second = 0.6 - 0.75 * 0.2 * 0.75**1.5 + 0.25 * 0.1
    third = second + 0.75 * 0.2 * 0.5**1.5 + 0.25 * (second - 0.6)
    assert found == pytest.approx([0.6, second, third])


@pytest.mark.parametrize(
    ("queries", "expected"),
    [(2, ()), (6, ()), (7, (5,)), (30, (5, 10, 15, 20, 25)), (100, (5, 10, 15, 20, 25, 31, 38, 47, 58, 72, 90))],
)
def test_a_judge_is_asked_ever_less_often(queries, expected):
    assert judgements(queries) == expected


def told(values: list[float], slopes: list[float]) -> list[State]:
    """What APGD remembers after each query of one pixel in an interval of +- 0.25, from what it is told there."""
    threat = ThreatModel(
        name="t", norm="linf", eps=0.25, aim="hide", objective="score", start="ood", init="clean", attack="apgd",
        queries=101, restarts=1, iterate="best", source="test",
    )  # fmt: skip
    x, attack, states = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64), apgd(), []
    random = row_random(0, "t", [0], "cpu", x.dtype)
    x_adv, state = attack.start(x, threat, random, 100)
    for value, slope in zip(values, slopes, strict=True):
        seen = Seen(threat.project(x_adv, x), x.new_tensor([value]), torch.full_like(x, slope))
        x_adv, state = attack.step(seen, x, threat, random, state)
        states.append(state)
    return states


def test_apgd_goes_back_to_its_best_point_with_half_the_step():
    # the first step goes up to 0.75, where the value is 5; all others lead down from there, to lower values
    states = told([0, 5, *(4 - 0.1 * i for i in range(21))], [1] + [-1] * 22)
    before, after = states[21:]  # 22 is the first checkpoint
    assert (before.length.item(), after.length.item()) == (0.5, 0.25)
    assert before.last.item() == 0.25
    assert after.last.item() == after.best_x.item() == 0.75


@pytest.mark.parametrize(("again", "lengths"), [(-100, [0.5, 0.25, 0.25, 0.125]), (23, [0.5] * 4)])
def test_apgd_halves_a_step_whose_rises_lead_to_no_new_best(again, lengths):
    # every query beats the one before it; from 23 on, after the first checkpoint, they start below or go on. A step
    # that was halved at the last checkpoint is left alone once
    states = told([*range(23), *range(again, again + 48)], [1] * 71)
    assert [states[t].length.item() for t in (22, 41, 57, 70)] == lengths
