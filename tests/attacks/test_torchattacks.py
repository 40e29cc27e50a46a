"""Attacks of torchattacks on a score: feasible, honest, within budget, as strong as the library's, at any scale."""

import pytest
import torch
import torchattacks
from torch import Tensor, nn

from oodattack.attack import STOPPED, milestones
from oodattack.attacks.torchattacks_adapter import from_torchattacks, names, remark
from oodattack.attacks.torchattacks_book import DUAL, Book
from oodattack.attacks.torchattacks_classifier import FourLogits, Spent
from oodattack.attacks.torchattacks_table import ATTACKS, REFUSED
from oodattack.geometry import norm_of, row_random
from oodattack.threat import ThreatModel

EPS = {"linf": 0.03, "l2": 0.3, "l1": 1.0}
NAMED = [(name, norm) for name in names() for norm in ATTACKS[name].norms]
# share of the optimum of a linear score on 2 x 3 x 8 x 8 that 60 queries must reach
REACH = {
    ("PGD", "linf"): 0.999, ("BIM", "linf"): 0.999, ("MIFGSM", "linf"): 0.999, ("FGSM", "linf"): 0.999,
    ("Jitter", "linf"): 0.999, ("VMIFGSM", "linf"): 0.999, ("SINIFGSM", "linf"): 0.999, ("EOTPGD", "linf"): 0.999,
    ("APGD", "linf"): 0.999, ("APGD", "l2"): 0.99, ("APGDT", "linf"): 0.999, ("APGDT", "l2"): 0.99,
    ("PGDL2", "l2"): 0.99, ("PGDRS", "linf"): 0.99, ("PGDRSL2", "l2"): 0.98, ("Square", "linf"): 0.12,
    ("Square", "l2"): 0.15, ("SPSA", "linf"): 0.1, ("FAB", "linf"): 0.95, ("FAB", "l2"): 0.95, ("CW", "l2"): 0.9,
    ("DeepFool", "l2"): 0.99, ("EADEN", "l2"): 0.8, ("EADL1", "l1"): 0.5,
}  # fmt: skip


def limits(name: str, norm: str = "linf", **changes) -> ThreatModel:
    fields = dict(
        name="t", norm=norm, eps=EPS[norm], aim="raise", objective="score", start="ood", init="ball",
        attack=f"torchattacks:{name}", queries=60, restarts=1, iterate="best", source="test",
    )  # fmt: skip
    return ThreatModel(**(fields | changes))


def images(*shape: int, dtype=torch.float32) -> Tensor:
    return 0.1 + 0.8 * torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def linear(*shape: int):
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return weight, lambda x, _rows=None: (weight.to(x) * x).flatten(1).sum(1)


def small_conv(channels: int):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Conv2d(channels, 4, 3, stride=2), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return lambda x, _rows=None: net.to(x.dtype)(x).logsumexp(1)


def attack(name: str, loss, x: Tensor, threat: ThreatModel, seed: int = 0, **options):
    random = row_random(seed, "test", range(len(x)), "cpu", x.dtype)
    return from_torchattacks(name).search(loss, x, threat, random, **({"keep_clean": True} | options))


@pytest.mark.parametrize(("name", "norm"), NAMED)
def test_gradients_in_another_memory_format(name, norm):
    # as folded networks give them: PGDL2 takes views of its gradient
    loss, x = small_conv(3), images(2, 3, 32, 32)
    found = attack(name, lambda x, _: loss(x.contiguous(memory_format=torch.channels_last)), x, limits(name, norm))
    assert found.value.isfinite().all() and (found.value >= loss(x)).all()


@pytest.mark.parametrize(("name", "norm"), NAMED)
@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (3, 1, 8, 8)], ids=str)
def test_contract(name, norm, shape):
    if ATTACKS[name].channels not in (0, shape[1]):
        pytest.skip("insists on three channels")
    x, score = images(*shape, dtype=torch.float64 if shape[1] == 1 else torch.float32), small_conv(shape[1])
    asked = torch.zeros(len(x), dtype=torch.long)
    spent = []

    def loss(z: Tensor, rows: Tensor) -> Tensor:
        assert len(rows) == len(z) and z.dtype == x.dtype
        assert z.min() >= 0 and z.max() <= 1
        asked.index_add_(0, rows, torch.ones_like(rows))
        return score(z)

    threat = limits(name, norm, queries=25)
    before = x.clone(), torch.get_rng_state()
    found = attack(name, loss, x, threat, progress=spent.append)
    assert torch.equal(x, before[0]) and torch.equal(torch.get_rng_state(), before[1])
    assert torch.equal(found.queries, asked) and (asked <= 25).all()
    assert sum(spent) == 25 * len(x)
    assert found.x_adv.min() >= 0 and found.x_adv.max() <= 1
    assert (norm_of(found.x_adv - x, norm) <= threat.eps * (1 + 1e-6) + 1e-7 * x[0].numel() ** 0.5).all()
    torch.testing.assert_close(score(found.x_adv).detach().double(), found.value, rtol=1e-5, atol=1e-6)
    assert (found.value >= score(x)).all() and not found.clean_best.all()
    assert (found.gradients > 0).all() == from_torchattacks(name).white_box
    assert found.zero_gradients.tolist() == found.non_finite.tolist() == [0] * len(x)
    again = attack(name, score, x, threat)
    assert torch.equal(found.x_adv, again.x_adv)


@pytest.mark.parametrize(("name", "norm"), REACH)
def test_a_linear_score_is_raised_as_far_as_the_library_can(name, norm):
    x = images(2, 3, 8, 8)
    weight, score = linear(3, 8, 8)
    best = EPS[norm] * norm_of(weight.flatten()[None], DUAL[norm]).item()
    found = attack(name, score, x, limits(name, norm, init="clean"))
    gain = score(found.x_adv) - score(x)
    assert (gain <= best * (1 + 1e-4)).all()
    assert (gain >= REACH[name, norm] * best).all()


@pytest.mark.parametrize(("name", "norm"), NAMED)
def test_the_scale_of_the_score_does_not_matter(name, norm):
    x, score = images(2, 3, 8, 8, dtype=torch.float64), small_conv(3)
    results = []
    for scale in (1, 20, 200, 1e-3):
        scaled = lambda z, _rows, scale=scale: scale * score(z) + 7 * scale
        found = attack(name, scaled, x, limits(name, norm, queries=25))
        results.append((found.value / scale - 7 - score(x)).detach())
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0.02, atol=1e-6)


def test_no_success_ends_the_search_early():
    # APGD and Square stop where the label flips
    x = images(2, 3, 8, 8)
    _, score = linear(3, 8, 8)
    for name in ("PGD", "APGD", "APGDT", "Square"):
        assert (attack(name, score, x, limits(name, queries=40)).queries == 40).all()


def test_the_classifier_has_the_gradient_of_the_loss_and_keeps_its_label():
    x = images(2, 1, 4, 4, dtype=torch.float64)
    weight, score = linear(1, 4, 4)
    foreign = ATTACKS["PGD"]
    book = Book(score, x, limits("PGD"), foreign, None, None, None, lambda _: None)
    book.clean(keep_clean=True)
    classifier = FourLogits(book, torch.arange(2), 9, foreign)
    rising = []
    for k in (-1e4, -1.0, 0.0, 1e-3, 1.0, 1e4):  # in the direction of the gradient, far outside the box too
        z = (x + k * 1e-4 * weight).requires_grad_()
        logits = classifier(z)
        (grad,) = torch.autograd.grad(nn.functional.cross_entropy(logits, torch.zeros(2, dtype=torch.long)), z)
        cosine = nn.functional.cosine_similarity(grad.flatten(1), weight.flatten()[None])
        torch.testing.assert_close(cosine, torch.ones_like(cosine))
        assert logits.shape == (2, 4) and (logits.argmax(1) == 0).all()
        rising.append(logits[:, 1])
    assert (torch.stack(rising).diff(dim=0) > 0).all()


@pytest.mark.parametrize("name", ["PGDRS", "PGDRSL2", "SPSA"])  # the first two interleave their copies, SPSA tiles them
def test_repeated_rows_are_told_apart(name):
    x = torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1, 1).expand(3, 1, 24, 24).clone()
    centre = torch.tensor([0.24, 0.5, 0.76]) if name != "SPSA" else torch.tensor([0.1, 0.5, 0.9])
    copies = 0

    def loss(z: Tensor, rows: Tensor) -> Tensor:
        nonlocal copies
        if len(z) > 3:  # noise of 0.5, clipped to the box, has these means; of 576 pixels to about 0.015
            copies += 1
            assert ((z.flatten(1).mean(1) - centre[rows]).abs() < 0.13).all()
        return z.flatten(1).sum(1)

    attack(name, loss, x, limits(name, ATTACKS[name].norms[0]))
    assert copies


def test_the_budget_ends_a_run_from_inside():
    x = images(2, 1, 8, 8)
    _, score = linear(1, 8, 8)
    foreign = ATTACKS["PGD"]
    book = Book(score, x, limits("PGD"), foreign, None, None, None, lambda _: None)
    book.clean(keep_clean=True)
    classifier = FourLogits(book, torch.arange(2), 3, foreign)
    with pytest.raises(Spent):
        torchattacks.PGD(classifier, eps=0.03, steps=10)(x, torch.zeros(2, dtype=torch.long))
    assert book.queries.tolist() == [4, 4] and book.now.isfinite().all()


def test_finished_rows_are_not_attacked():
    x = images(3, 1, 8, 8)
    _, score = linear(1, 8, 8)
    enough = torch.tensor([torch.inf, score(x)[1].item(), torch.inf])
    found = attack("PGD", score, x, limits("PGD", queries=20), enough=enough)
    assert found.queries.tolist() == [20, 1, 20]
    assert [STOPPED[k] for k in found.stopped] == ["queries spent", "target reached", "queries spent"]
    assert found.clean_best.tolist() == [False, True, False] and torch.equal(found.x_adv[1], x[1])
    doubted = attack(
        "PGD", score, x, limits("PGD", queries=20), enough=enough, confirm=lambda z, _: torch.zeros(len(z)) > 0
    )
    assert (doubted.queries == 20).all() or doubted.queries.max() <= 20
    assert not doubted.clean_best[1]


def test_restarts_share_the_queries_and_differ():
    x, score = images(2, 1, 8, 8), small_conv(1)
    bumpy = lambda z, _rows: (30 * z).sin().flatten(1).sum(1) + score(z)
    one = attack("PGD", bumpy, x, limits("PGD", queries=5))
    four = attack("PGD", bumpy, x, limits("PGD", queries=17, restarts=4))
    assert one.queries.tolist() == [5, 5] and four.queries.tolist() == [17, 17]
    assert (four.value > one.value).any()


def test_a_judge_has_the_last_word():
    # the loss points where the judge says it gets worse: the clean input stays
    x = images(2, 1, 8, 8)
    _, score = linear(1, 8, 8)
    found = attack("PGD", score, x, limits("PGD"), judge=lambda z, rows: -score(z))
    assert found.clean_best.all() and torch.equal(found.x_adv, x)
    assert (found.queries == 60).all()
    torch.testing.assert_close(found.value, -score(x).double())


def test_the_best_so_far_is_written_down_along_the_search():
    x = images(3, 1, 8, 8)
    _, score = linear(1, 8, 8)
    found = attack("PGD", score, x, limits("PGD", queries=30))
    assert found.history.shape == (3, len(milestones(30)))
    torch.testing.assert_close(found.history[:, 0], score(x).double())  # the clean call
    assert (found.history.diff(dim=1) >= 0).all() and (found.history[:, -1] == found.value).all()
    assert (found.history[:, -1] > found.history[:, 1]).all()
    assert attack("DeepFool", score, x, limits("DeepFool", "l2", queries=30)).history is None  # row by row
    assert attack("NIFGSM", score, x, limits("NIFGSM", queries=30)).history is None  # asks beyond the ball
    assert attack("VNIFGSM", score, x, limits("VNIFGSM", queries=30)).history is None


def test_draws_count_as_queries():
    x = images(2, 1, 8, 8)
    _, score = linear(1, 8, 8)
    assert attack("PGD", score, x, limits("PGD", queries=60, draws=3)).queries.tolist() == [60, 60]


def test_flat_and_broken_scores_do_no_harm():
    x = images(2, 3, 8, 8)
    flat = lambda z, _rows: 0 * z.flatten(1).sum(1) + 1
    for name in ("MIFGSM", "PGDL2", "APGD", "FAB", "DeepFool"):  # the first divides by the size of the gradient
        found = attack(name, flat, x, limits(name, ATTACKS[name].norms[-1]))
        assert found.clean_best.all() and torch.equal(found.zero_gradients, found.gradients)
        assert not found.non_finite.any()
    steep = lambda z, _rows: 1 + (0 * z).sqrt().flatten(1).sum(1)  # 0 times infinity in backward
    found = attack("PGD", steep, x, limits("PGD"))
    assert torch.equal(found.non_finite, found.gradients) and torch.equal(found.zero_gradients, found.gradients)
    holes = lambda z, rows: torch.where((rows == 1) & (z != x[rows]).flatten(1).any(1), torch.nan, z.flatten(1).sum(1))
    found = attack("PGD", holes, x, limits("PGD", queries=20))
    assert found.clean_best.tolist() == [False, True] and found.non_finite.tolist() == [0, 19]
    with pytest.raises(FloatingPointError, match="got 2 of 2"):
        attack("PGD", lambda z, _: z.flatten(1).sum(1) / 0, x, limits("PGD"))


def test_nearest_crossing_attacks_aim_at_what_is_enough():
    # DeepFool stops just beyond a threshold that lies at half of what the ball can gain
    x = images(2, 3, 8, 8)
    weight, score = linear(3, 8, 8)
    gain = EPS["l2"] * weight.norm().item()
    found = attack("DeepFool", score, x, limits("DeepFool", "l2"), enough=score(x) + gain / 2)
    torch.testing.assert_close(
        found.value - score(x), torch.full((2,), 1.02 * gain / 2, dtype=torch.float64), rtol=1e-3, atol=0
    )
    assert remark("DeepFool").startswith("stops at the threshold")
    assert all(remark(name).startswith("stops") for name in ("FAB", "CW", "EADL1", "EADEN"))
    assert remark("BIM") is None and "batch size" in remark("PGD")


def test_attacks_that_loop_over_rows_do_so_alone():
    x, score = images(3, 1, 8, 8), small_conv(1)
    together = attack("DeepFool", score, x, limits("DeepFool", "l2")).x_adv
    alone = attack("DeepFool", score, x[1:2], limits("DeepFool", "l2")).x_adv
    assert torch.allclose(together[1], alone[0], atol=1e-6)


def test_every_attack_of_the_library_is_offered_or_refused_with_a_reason():
    assert sorted([*ATTACKS, *REFUSED]) == sorted(torchattacks.__all__)
    for name in REFUSED:
        with pytest.raises(ValueError, match=rf"got torchattacks:{name}, which .*\. (Use|Make) "):
            from_torchattacks(name)


def test_what_does_not_fit_is_named():
    x, (_, score) = images(2, 1, 8, 8), linear(1, 8, 8)
    with pytest.raises(ValueError, match=r"Did you mean 'torchattacks:PGDL2'\? .*got 'torchattacks:PGDL3'\."):
        from_torchattacks("PGDL3")
    with pytest.raises(ValueError, match=r"`norm` must be l2 with torchattacks:PGDL2, got 'linf'. .*: APGD, "):
        attack("PGDL2", score, x, limits("PGDL2", "linf"))
    with pytest.raises(ValueError, match="`x` must have 3 channels with torchattacks:TIFGSM, got 1"):
        attack("TIFGSM", score, x, limits("TIFGSM"))
    with pytest.raises(ValueError, match="five windows"):
        attack("Square", score, images(1, 1, 12, 12), limits("Square", "l2"))
    with pytest.raises(ValueError, match="sides >= 5"):
        attack("Square", score, x[..., :4], limits("Square", "l2"))
    with pytest.raises(ValueError, match=r"`step_size` must be absent with torchattacks:APGD, got 0\.1"):
        attack("APGD", score, x, limits("APGD", step_size=0.1))
    with pytest.raises(ValueError, match="`iterate` must be 'best'"):
        attack("PGD", score, x, limits("PGD", iterate="last"))
    with pytest.raises(ValueError, match="`queries` must be >= 18 with torchattacks:SPSA, got 17"):
        attack("SPSA", score, x, limits("SPSA", queries=17))
    assert attack("SPSA", score, x, limits("SPSA", queries=18)).queries.tolist() == [18, 18]
    with pytest.raises(ValueError, match=r"`x` must be in \[0, 1\]"):
        attack("PGD", score, x + 1, limits("PGD"))
    with pytest.raises(ValueError, match="must have a gradient"):
        attack("PGD", lambda z, _: score(z).detach(), x, limits("PGD"))


def test_the_step_size_is_a_share_of_eps():
    # 3 queries are one step: from the clean input by 0.5 eps
    x = images(1, 1, 8, 8)
    _, score = linear(1, 8, 8)
    found = attack("PGD", score, x, limits("PGD", init="clean", queries=3, step_size=0.5))
    torch.testing.assert_close((found.x_adv - x).abs(), torch.full_like(x, 0.015))
