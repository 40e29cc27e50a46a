"""Moves straight toward the other set, and what the denied part of a gradient could do."""

import pytest
import torch

from oodattack import evaluate, read_threat
from oodattack.evaluation.toward import bands, mean_of

SIZE = 8
CHECKER = torch.tensor([[(-1.0) ** (i + j) for j in range(SIZE)] for i in range(SIZE)])


def images(n, *, ood, seed):
    """The sets differ by 0.25 in brightness and by a checkerboard of 0.02."""
    noise = 0.015 * torch.randn(n, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    return ((0.6 if ood else 0.35) + (0.01 if ood else -0.01) * CHECKER + noise).clamp(0, 1).unsqueeze(1)


ID, OOD = images(24, ood=False, seed=0), images(24, ood=True, seed=1)


def brightness(x):
    return x.flatten(1).mean(1)


def checker(x):
    return (CHECKER * x[:, 0]).flatten(1).mean(1) / 0.01


def least(x):
    """The gradient is that of brightness, wherever that is the smaller one."""
    return torch.minimum(brightness(x), 1.2 + 0.6 * checker(x))


def results(score, *threats, **more):
    report = evaluate(score, id=ID, ood={"ood": OOD}, threats=[*threats, "sanity-full-box-both"], seed=0, **more)
    return {r.threat: r for r in report.results}


@pytest.mark.parametrize("threat", ["linf-8-255", "flagship", "l2-0.5"])
def test_a_weak_score_behind_a_strong_one_never_holds(threat):
    found = results(least, threat)[threat]
    if threat != "l2-0.5":  # which is too small
        moved = OOD - 8 / 255 * CHECKER
        assert (least(moved)[:, None] < least(ID)).double().mean() > 0.8  # broken in truth
        assert found.verdict == "inconclusive" and "moves straight toward the other set" in found.reason
        assert found.indicators["toward_lead"] > 0.5
    assert found.indicators["toward_lead"] is not None


@pytest.mark.parametrize("threat", ["linf-8-255", "atd-in", "atd-both"])
def test_a_search_that_works_is_never_behind_and_one_that_broke_it_is_not_asked(threat):
    assert results(brightness, threat)[threat].indicators["toward_lead"] <= 0
    broken = results(checker, threat)[threat]
    assert broken.verdict == "broken"
    for name in ("toward_lead", "denied_auroc", "misled_share", "unexplained_share"):
        assert broken.indicators[name] is None


def test_id_images_move_the_other_way():
    most = lambda x: torch.maximum(brightness(x), -0.5 + 0.6 * checker(x))
    found = results(most, "atd-in")["atd-in"]
    assert found.verdict == "inconclusive" and found.indicators["toward_lead"] > 0.5


@pytest.mark.parametrize("threat", ["liang-score", "square-5k", "patch-8", "fmn-linf", "semantic-stadv"])
def test_searches_of_other_kinds_have_no_such_floor(threat):
    x = [torch.nn.functional.interpolate(some, 16) for some in (OOD, ID, images(8, ood=False, seed=2))]
    limits = read_threat(threat).model_dump() | {"name": "short", "queries": 5}
    short = type(read_threat(threat)).model_validate(limits)
    report = evaluate(brightness, id=x[1], ood={"ood": x[0]}, threats=[short], targets=x[2], seed=0)
    assert report.results[0].indicators["toward_lead"] is None
    assert report.results[0].indicators["denied_auroc"] is None


def test_a_score_that_draws_is_not_asked():
    noisy = lambda x: brightness(x) + 0.2 * torch.randn(len(x))
    assert results(noisy, "linf-8-255")["linf-8-255"].indicators["toward_lead"] is None


def test_moves_that_make_a_score_infinite_do_not_count():
    odds = lambda x: brightness(x).log() - (1 - brightness(x)).log()  # -inf on black
    found = results(odds, "linf-8-255")
    assert found["linf-8-255"].verdict == "holds"


def test_the_mean_of_many_images_is_that_of_rows_all_over_them():
    x = torch.arange(5000.0).view(-1, 1, 1, 1) / 5000
    assert mean_of(x).item() == pytest.approx(0.5, abs=1e-3)
    assert torch.allclose(mean_of(ID), ID.mean(dim=0))


def test_bands_add_up_to_the_image():
    some = torch.rand(3, 9, 5, generator=torch.Generator().manual_seed(0))
    parts = list(bands(some))
    assert len(parts) == 4 and torch.allclose(sum(parts), some, atol=1e-6)
    flat = list(bands(torch.full((1, 8, 8), 0.3)))
    assert all(part.abs().max() < 1e-6 for part in flat[:3])
    checks = list(bands(CHECKER[None]))
    assert checks[0].abs().mean() > 0.8 and checks[3].abs().mean() < 0.2


@pytest.mark.parametrize("weight", [0.0, 16.0])
def test_what_a_gradient_lacks_is_weighed_in_the_norm_of_the_ball(weight):
    """A few bright pixels are seen by the gradient, a dense pattern is not: as long in l2, ten times as long in l1."""

    def score(x):
        hidden = torch.as_tensor((x.detach()[:, 0] * CHECKER.repeat(4, 4)).flatten(1).mean(1).numpy())
        return x[:, 0, :2, :2].flatten(1).mean(1) + weight * hidden

    x_id, x_ood = (torch.rand(20, 1, 32, 32, generator=torch.Generator().manual_seed(i)) * 0.1 for i in (0, 1))
    x_id, x_ood = x_id + 0.3, x_ood + 0.55
    threats = ["linf-8-255", "sanity-full-box"]
    report = evaluate(score, id=x_id, ood={"ood": x_ood}, threats=threats, seed=0)
    linf = report.results[0]
    assert linf.clean.auroc == 1.0
    if weight:
        moved = (x_ood - 8 / 255 * CHECKER.repeat(4, 4)).clamp(0, 1)
        assert (score(moved)[:, None] < score(x_id)).double().mean() > 0.9
        assert linf.verdict == "inconclusive" and "what differences show and its gradient does not" in linf.reason
    else:
        assert linf.verdict == "holds" and linf.indicators["denied_auroc"] == pytest.approx(1.0)
