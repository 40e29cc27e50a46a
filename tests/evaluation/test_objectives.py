"""What a search may follow besides the score, judged by the score; other libraries' attacks; precision; fallbacks."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from oodattack.attack import STOPPED, Found
from oodattack.classifier import Classifier
from oodattack.detectors import MSP, ODIN, Energy, GaiaZ, JemPy, Mahalanobis, MaxLogit, OEScore, OutlierClass
from oodattack.detectors.mahalanobis import Gaussians
from oodattack.evaluation import evaluate, part
from oodattack.evaluation.batch import Batch
from oodattack.evaluation.goal import nearest
from oodattack.evaluation.part import better, shares
from oodattack.loss import Judged
from oodattack.threat import Suite, ThreatModel

FIELDS = dict(
    norm="linf", eps=0.2, aim="hide", objective="score", start="ood", init="ball", attack="apgd", queries=60,
    restarts=1, iterate="best", source="test",
)  # fmt: skip


def threat(name: str = "t", **fields) -> ThreatModel:
    return ThreatModel(**(FIELDS | {"name": name} | fields))


def convnet(act: nn.Module | None = None) -> Classifier:
    torch.manual_seed(0)
    parts = OrderedDict(
        conv1=nn.Conv2d(1, 8, 3, padding=1), bn1=nn.BatchNorm2d(8), act=act or nn.ReLU(), pool=nn.AdaptiveAvgPool2d(2),
        flat=nn.Flatten(), head=nn.Linear(32, 4),
    )  # fmt: skip
    network = nn.Sequential(parts).eval()
    network.head.weight.data *= 4
    return Classifier(network)


GENERATOR = torch.Generator().manual_seed(0)
OOD = torch.rand(20, 1, 8, 8, generator=GENERATOR) * torch.linspace(0.8, 1, 8)
ID = 0.5 + 0.1 * torch.rand(24, 1, 8, 8, generator=GENERATOR)


def run(detector, *threats, **options):
    return evaluate(detector, id=ID, ood={"near": OOD}, threats=list(threats), seed=0, **options)


@pytest.mark.parametrize("aim", ["hide", "raise", "both"])
@pytest.mark.parametrize("objective", ["score", "logits", "latent", "class-logits"])
def test_every_objective_lowers_the_auroc_and_the_score_judges(objective, aim):
    result = run(Energy(convnet()), threat(objective=objective, aim=aim, restarts=2)).results[0]
    assert result.attacked.auroc < result.clean.auroc - 0.02
    assert result.direction == aim
    assert result.queries <= 60 + 12  # judging costs one query in five, inside the budget but for the last


def at_once(detector, objective: str, monkeypatch, **options) -> set[bool]:
    """Whether the searches that follow an objective know the score from the pass that they follow."""
    found, search = [], part.maximise

    def spy(loss, x, threat, *args, judge, **kwargs):
        told = loss(x, torch.arange(len(x)))
        found.append(isinstance(told, Judged))
        assert isinstance(told, Judged) == (judge is None)
        if judge is None:
            score = detector(x.detach()).to(told.worth)
            torch.testing.assert_close(told.worth, -score, rtol=1e-4, atol=1e-5)
            assert not told.worth.requires_grad
        return search(loss, x, threat, *args, judge=judge, **kwargs)

    monkeypatch.setattr(part, "maximise", spy)
    run(detector, threat(objective=objective, restarts=2), **options)
    return set(found)


@pytest.mark.parametrize("build", [MSP, Energy, MaxLogit, OEScore, OutlierClass, JemPy])
@pytest.mark.parametrize("objective", ["logits", "latent", "class-logits"])
def test_a_score_of_logits_is_known_from_the_pass_that_is_followed(build, objective, monkeypatch):
    assert at_once(build(convnet()), objective, monkeypatch) == {True}


class Shifted(Energy):
    """Not what its base makes of the logits."""

    def forward(self, x):
        return self.from_logits(self.net.logits(x)) + x.mean(dim=(1, 2, 3))


def with_a_hook() -> Energy:
    detector = Energy(convnet())
    detector.register_forward_hook(lambda _module, _args, score: -score)
    return detector


def with_its_own_forward() -> Energy:
    detector = Energy(convnet())
    detector.forward = lambda x: -detector.net.logits(x).amax(dim=1)
    return detector


OTHERS = {
    "subclass": lambda: Shifted(convnet()),
    "hook": with_a_hook,
    "put in its place": with_its_own_forward,
    "another latent": lambda: Mahalanobis(convnet(), Gaussians(torch.zeros(4, 32), torch.eye(32))),
    "preprocessing": lambda: ODIN(convnet()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_more_than_a_score_of_logits_is_asked_itself(name, monkeypatch):
    assert at_once(OTHERS[name](), "logits", monkeypatch) == {False}


def test_in_reduced_precision_the_score_is_asked_in_full(monkeypatch):
    assert at_once(Energy(convnet()), "logits", monkeypatch, precision="bfloat16") == {False}


@pytest.mark.parametrize(("objective", "goal"), [("logits", "the logits"), ("misclassify", "a wrong class")])
def test_a_search_that_does_not_follow_the_score_earns_no_holds(objective, goal):
    limits = threat(objective=objective, eps=0.01, queries=10)
    box = threat("box", eps=1.0, init="clean")
    result = run(Energy(convnet()), limits, box).results[0]
    assert result.attacked.auroc > 0.5 + 0.75 * (result.clean.auroc - 0.5)  # little changes within 0.01
    assert result.indicators["other_goal"] == goal
    assert result.verdict == "inconclusive" and f"the search was after {goal}" in result.reason


@pytest.mark.parametrize("match", ["logits", "latent", "score"])
def test_a_latent_that_is_not_reached_says_nothing_of_the_lowest_score(match):
    limits = threat(aim="match", objective=None, match=match, paired=True, eps=0.01, queries=30)
    box = threat("box", eps=1.0, init="clean")
    result = run(Energy(convnet()), limits, box).results[0]
    assert result.attacked.auroc > 0.5 + 0.75 * (result.clean.auroc - 0.5)
    goal = None if match == "score" else f"the {match} of an ID image"
    assert result.indicators["other_goal"] == goal
    assert (result.verdict == "inconclusive" and "the search was after" in result.reason) == (match != "score")


def found(value: list[float], stopped: list[str], clean_best: list[bool]) -> Found:
    """A search whose images say their own value, of ten queries a row."""
    v, ten = torch.tensor(value), torch.full((len(value),), 10)
    why = torch.tensor([STOPPED.index(reason) for reason in stopped])
    return Found(v.view(-1, 1, 1, 1), v, ten, ten, 0 * ten, 0 * ten, torch.tensor(clean_best), why)


def test_of_two_losses_each_row_keeps_the_better_point_and_the_reason_why_its_last_search_ended():
    first = found([1.0, 1.0, 1.0], ["queries spent", "stationary", "ball binds"], [True, True, True])
    then = found([2.0, 0.5], ["target reached", "queries spent"], [False, False])  # of the last row and the first
    both = better(first, then, torch.tensor([2, 0]))
    assert both.value.tolist() == both.x_adv.flatten().tolist() == [1, 1, 2]
    assert both.clean_best.tolist() == [True, True, False]
    assert [STOPPED[i] for i in both.stopped.tolist()] == ["queries spent", "stationary", "target reached"]
    assert both.queries.tolist() == [20, 10, 20]
    later = better(first, found([0.0], ["target reached"], [False]), torch.tensor([0]))
    assert STOPPED[int(later.stopped[0])] == "target reached"  # though its point is the earlier one


@pytest.mark.parametrize(
    ("fields", "losses", "expected"),
    [
        ({"queries": 50}, 3, [17, 17, 16]),
        ({"queries": 60, "draws": 10}, 3, [30, 30]),  # six points: two losses can take a step, three could not
        ({"queries": 99, "draws": 10}, 3, [30, 30, 30]),
        ({"queries": 30, "draws": 5}, 3, [15, 15]),
        ({"queries": 6}, 3, [3, 3]),
        ({"queries": 7}, 3, [4, 3]),
        ({"queries": 2}, 3, [2]),
    ],
)
def test_several_losses_share_the_queries_in_whole_draws_and_each_can_take_a_step(fields, losses, expected):
    limits = threat(objective="latent", **fields)
    assert shares(limits, losses) == expected
    assert sum(expected) <= limits.queries


@pytest.mark.parametrize(
    ("objective", "queries", "draws"),
    [("class-logits", 60, 10), ("class-logits", 30, 5), ("class-logits", 6, None), ("latent", 30, 5)],
)
def test_several_losses_with_few_queries_still_move_the_score(objective, queries, draws):
    limits = threat(objective=objective, queries=queries, draws=draws, restarts=3)
    result = run(Energy(convnet()), limits).results[0]
    assert result.attacked.auroc < result.clean.auroc
    assert result.queries <= queries + 1  # a row may be asked once more whether it is finished


def test_no_objective_makes_a_row_worse_than_clean():
    detector = Energy(convnet())
    for objective in ("logits", "latent", "class-logits"):
        shown = []
        run(detector, threat(objective=objective, queries=4), watch=shown.append)
        assert (shown[0].x_adv_scores <= shown[0].start_scores).all()


class Kink(nn.Module):
    """The brightness b, and by how much it is over 0.5."""

    def forward(self, x):
        bright = x.flatten(1).mean(1)
        return torch.stack([bright, (bright - 0.5).relu()], dim=1)


def plateau() -> Classifier:
    """Two logits, equal up to b = 0.5, from where the second one rises by 20 (b - 0.5)."""
    head = nn.Linear(2, 2, bias=False)
    head.weight.data = torch.tensor([[1.0, 0.0], [1.0, 20.0]])
    return Classifier(nn.Sequential(Kink(), head).eval())


def test_on_logits_means_another_score_than_the_own_one_and_leads_off_a_plateau():
    net = plateau()
    sets = {"id": 0.5 + ID / 4, "ood": {"dark": 0.46 + 0.05 * OOD}}  # b is 0.64 and 0.48; log-odds see no slope there
    on = {objective: threat(objective, objective=objective, init="clean") for objective in ("score", "logits")}
    report = evaluate({"msp": MSP(net), "energy": Energy(net)}, **sets, threats=list(on.values()), seed=0)
    names = {(r.detector, r.threat): r.surrogate for r in report.results}
    assert names["msp", "logits"] == "energy of the network's logits"
    assert names["energy", "logits"] == "log-odds of the network's logits"
    left = {r.threat: r.attacked.auroc for r in report.results if r.detector == "msp"}
    assert left["score"] == 1 and left["logits"] < 0.5
    members = [m.model_copy(update={"queries": 20}) for m in on.values()]
    suite = Suite(name="few", members=tuple(members), queries=50, source="test")
    (result,) = evaluate(MSP(net), **sets, threats=[suite], seed=0).results
    assert result.attacked.auroc < 0.5 and result.members["logits"] < 0.5  # one search, on what moved a few rows


def test_objectives_on_logits_need_a_network():
    report = evaluate(
        {"plain": lambda x: x.flatten(1).mean(1), "energy": Energy(convnet())},
        id=ID, ood={"near": OOD}, threats=[threat(objective="logits")], seed=0,
    )  # fmt: skip
    assert [s.reason for s in report.skipped] == ["the detector has no `net` whose logits to follow"]
    assert [r.detector for r in report.results] == ["energy"]


def test_misclassified_id_images_are_another_question():
    net = convnet()
    shown = []
    limits = threat(objective="misclassify", start="id", attack="pgd", step_size=0.1)
    report = evaluate(MSP(net), id=ID, ood={}, threats=[limits], seed=0, watch=shown.append)
    result = report.results[0]
    assert result.direction == "misclassify"
    assert result.ood == "id"
    before, after = net(shown[0].start).argmax(1), net(shown[0].x_adv).argmax(1)
    assert (before != after).any()
    assert result.attacked.n_ood == 12  # the other half of the ID images


def test_draws_are_averaged_and_counted():
    torch.manual_seed(0)
    calls = []

    def noisy(x):
        calls.append(len(x))
        return x.flatten(1).mean(1) + 0.02 * torch.randn(len(x))

    result = run(noisy, threat(draws=5, queries=50)).results[0]
    assert result.queries <= 50 and result.queries * len(OOD) % 5 == 0  # rows may be finished before
    assert result.attack.startswith("apgd, 5 draws a value, 50 queries")
    assert not result.indicators["repeatable"]


def test_a_run_is_repeatable_with_a_random_detector_and_leaves_the_global_generator_alone():
    noisy = lambda x: x.flatten(1).mean(1) + 0.02 * torch.randn(len(x))
    torch.manual_seed(1)
    first = run(noisy, threat()).results[0].attacked.auroc
    after = torch.rand(1)
    torch.manual_seed(2)
    assert run(noisy, threat()).results[0].attacked.auroc == first
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)


@pytest.mark.parametrize("name", ["PGD", "APGD", "PGDL2"])
def test_torchattacks_by_name(name):
    norm, eps = ("l2", 1.5) if name == "PGDL2" else ("linf", 0.2)
    limits = threat(attack=f"torchattacks:{name}", norm=norm, eps=eps, queries=40)
    theirs, ours = run(Energy(convnet()), limits, threat("ours", norm=norm, eps=eps, queries=40)).results
    assert theirs.attack.startswith(f"torchattacks:{name}, 40 queries")
    assert theirs.attacked.auroc < theirs.clean.auroc - 0.02
    assert theirs.distance <= eps * (1 + 1e-5)
    assert ours.attacked.auroc <= theirs.attacked.auroc + 0.01


def test_torchattacks_that_does_not_exist_is_refused_at_once():
    with pytest.raises(ValueError, match="PGDL3"):
        run(Energy(convnet()), threat(attack="torchattacks:PGDL3", norm="l2"))


def test_reduced_precision_searches_and_scores_in_full():
    report = run(Energy(convnet()), threat(), precision="bfloat16")
    full = run(Energy(convnet()), threat())
    assert report.spec.precision == "bfloat16"
    assert report.results[0].clean.auroc == full.results[0].clean.auroc
    assert abs(report.results[0].attacked.auroc - full.results[0].attacked.auroc) < 0.05


def test_float64_all_the_way():
    net = convnet().double()
    result = evaluate(Energy(net), id=ID.double(), ood={"near": OOD.double()}, threats=[threat()], seed=0).results[0]
    single = run(Energy(convnet()), threat()).results[0]
    assert result.clean.auroc == pytest.approx(single.clean.auroc, abs=1e-6)
    assert result.attacked.auroc == pytest.approx(single.attacked.auroc, abs=0.02)


def test_a_scale_of_twenty_changes_nothing():
    net = convnet()

    class Scaled(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.energy, self.factor = Energy(net), factor

        def forward(self, x):
            return self.factor * self.energy(x)

    limits = [threat(), threat("theirs", attack="torchattacks:PGD", queries=30), threat("square", attack="square")]
    once, often = (run(Scaled(factor).eval(), *limits).results for factor in (1, 20))
    for a, b in zip(once, often, strict=True):
        assert a.attacked.auroc == pytest.approx(b.attacked.auroc, abs=0.005)


def test_a_surrogate_that_does_not_know_the_network_gives_way_to_a_blind_search():
    flat = GaiaZ(convnet(nn.LeakyReLU(0.1)))
    result = run({"gaia-z": flat}, threat()).results[0]
    assert result.attack.startswith("square")
    assert result.surrogate is None
    assert result.verdict != "holds"


def test_restarts_that_disagree_are_told():
    result = run(Energy(convnet()), threat(restarts=3, queries=30)).results[0]
    assert result.indicators["restart_spread"] >= 0
    assert 0 <= result.indicators["rising_share"] <= 1


def test_a_threat_after_another_starts_from_its_results():
    detector = Energy(convnet())
    first = threat("first", eps=0.3, attack="random-search", queries=5)
    report = run(detector, first, threat("alone", eps=0.05), threat("then", eps=0.05, after=first))
    before, alone, then = report.results
    assert then.attacked.auroc <= min(before.attacked.auroc, alone.attacked.auroc)
    assert then.attacked.auroc < before.attacked.auroc
    assert then.distance <= 0.05 + 1e-6  # from where it started
    assert then.queries > alone.queries


def test_what_comes_first_must_attack_the_same_inputs():
    for wrong in (dict(aim="raise"), dict(start="noise")):
        with pytest.raises(
            ValueError, match=r"`after` needs aim = hide, and a first one that attacks the same OOD.*\. Change one"
        ):
            threat("then", after=threat("first", **wrong))


def test_targets_are_in_turns_the_nearest_and_the_nearest_of_the_best():
    line = lambda *values: torch.tensor(values)[:, None]
    others, worth = line(0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), torch.zeros(10)
    worth[[1, 8, 9]] = torch.tensor([3.0, 2.0, 1.0])
    f, batch = (lambda x: x), Batch(10)

    def chosen(count):
        return nearest(f, line(0.12, 0.84), others, worth=worth, count=count, batch=batch)[:, :, 0].tolist()

    assert chosen(1) == [pytest.approx([0.1]), pytest.approx([0.8])]
    # of two the best tenth has two: 0.1, which the first row has already, and 0.9
    assert chosen(2) == [pytest.approx([0.1, 0.9]), pytest.approx([0.8, 0.9])]
    # of four it has 0.1, 0.9, 1.0 and, as the first of those that are worth nothing, 0.0
    assert chosen(4) == [pytest.approx([0.1, 0.0, 0.2, 0.9]), pytest.approx([0.8, 0.9, 0.7, 1.0])]
    assert sorted(chosen(20)[0]) == pytest.approx(others[:, 0].tolist())
