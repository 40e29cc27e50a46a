"""From detector, images and threat models to a report, on detectors whose answers are known in closed form."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from oodattack import identity
from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors import MSP, OutlierClass
from oodattack.evaluation import evaluate, sides
from oodattack.evaluation.check import check_disjoint, exact_digests
from oodattack.evaluation.outcome import Outcome, Scored, Side, worst
from oodattack.evaluation.plan import Group
from oodattack.evaluation.search import Rows
from oodattack.identity import sha256_of, sha256_of_networks
from oodattack.job.id_classes import id_classes
from oodattack.keep_graph import NAME
from oodattack.metrics import auroc
from oodattack.numbers import crossing, matched, numbers
from oodattack.threat import Suite, ThreatModel, preset_folder, read_threat

SHAPE = (1, 4, 4)


def threat(name: str = "t", **changes) -> ThreatModel:
    fields = dict(
        name=name, norm="linf", eps=0.1, aim="hide", objective="score", start="ood", init="ball", attack="apgd",
        queries=20, restarts=1, iterate="best", source="test",
    )  # fmt: skip
    return ThreatModel(**(fields | changes))


def suite(name: str, *members: ThreatModel) -> Suite:
    return Suite(name=name, members=members, source="test")


def images(
    n: int, low: float | torch.Tensor, high: float | torch.Tensor, *, seed: int, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(n, *SHAPE, dtype=dtype, generator=generator)


def levels(n: int, low: float, high: float, *, seed: int) -> torch.Tensor:
    """Noisy images whose brightness goes from low to high."""
    middle = torch.linspace(low, high, n, dtype=torch.float64).view(-1, 1, 1, 1)
    return images(n, middle - 0.05, middle + 0.05, seed=seed)


ID = levels(12, 0.15, 0.45, seed=0)
OOD = levels(8, 0.35, 0.60, seed=1)  # brighter, with some overlap
BOX = threat("box", eps=1.0, init="clean")


def brightness(x: torch.Tensor) -> torch.Tensor:
    """A linear score; within linf it moves by exactly eps."""
    return x.flatten(1).mean(1)


class Linear(nn.Module):
    """logits = W x, a score and a latent from them; counts what passes through it."""

    def __init__(self, sign: float = 1.0, weight: torch.Tensor | None = None):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        fresh = torch.randn(3, 16, dtype=torch.float64, generator=generator)
        self.weight = nn.Parameter(fresh if weight is None else weight, requires_grad=False)
        self.sign, self.rows = sign, 0
        self.eval()

    def latent(self, x):
        self.rows += len(x)
        return x.flatten(1) @ self.weight.T

    def forward(self, x):
        return self.sign * self.latent(x).sum(1)


class Head(nn.Module):
    """A score of a network's logits."""

    of_logits = True

    def __init__(self, net: Linear, power: float):
        super().__init__()
        self.net, self.power = net, power
        self.eval()

    @property
    def latent(self):
        return self.net.latent

    def forward(self, x):
        return self.power * self.net.latent(x).logsumexp(1)


def run(detector=brightness, threats=None, *, id=ID, ood=OOD, seed=0, **options):
    threats = [threat()] if threats is None else threats
    return evaluate(
        detector, id=id, ood=ood if isinstance(ood, dict) else {"near": ood}, threats=threats, seed=seed, **options
    )


def one(*args, **options):
    (result,) = run(*args, **options).results
    return result


def attacked_images(*args, **options):
    """The only result and what `watch` saw of it."""
    seen = []
    result = one(*args, watch=seen.append, **options)
    return result, seen[0]


# --- aims ---


def test_hide_reaches_the_optimum_of_a_linear_score():
    result, shown = attacked_images()
    assert result.clean.auroc == auroc(brightness(ID), brightness(OOD)) > 0.8
    best = brightness((OOD - 0.1).clamp(0, 1))
    assert result.attacked.auroc == auroc(brightness(ID), best)
    beyond = brightness(ID).min()
    assert (shown.x_adv_scores <= torch.maximum(best + 1e-9, beyond)).all()  # optimal, or past every ID score


@pytest.mark.parametrize(
    "limits",
    [
        threat(attack="pgd", step_size=0.25),
        threat(attack="apgd"),
        threat(attack="square"),
        threat(attack="random-search"),
        threat(attack="torchattacks:PGD"),
        threat(attack="affine", limit=1.0, eps=1.0, init="clean"),
    ],
    ids=lambda limits: limits.attack,
)
def test_a_score_that_only_float64_can_tell_is_attacked_as_well(limits):
    id_, ood = ID.float(), OOD.float()
    near = lambda x: x.double().flatten(1).mean(1)
    far = lambda x: near(x) + 1e12  # the same order, and float32 sees one number
    assert far(ood).float().unique().numel() == 1
    plain, shifted = (one(score, [limits], id=id_, ood=ood) for score in (near, far))
    assert plain.attacked.auroc < plain.clean.auroc
    assert shifted.attacked.auroc == pytest.approx(plain.attacked.auroc, abs=0.02)  # 1e12 leaves 1e-4 of a score


def test_raise_attacks_the_id_side_only():
    result, shown = attacked_images(threats=[threat(aim="raise")])
    assert result.attacked.auroc < result.clean.auroc
    assert result.attacked.auroc == auroc(brightness((ID + 0.1).clamp(0, 1)), brightness(OOD))
    assert shown.side == "id"
    assert torch.equal(shown.start[0], ID[0])
    assert result.deployed.fpr == pytest.approx(result.clean.fpr_at_95_id_tpr)  # OOD scores have not moved


def test_both_is_at_least_as_strong_as_each():
    hide, lift, both = run(threats=[threat(a, aim=a) for a in ("hide", "raise", "both")]).results
    assert both.attacked.auroc <= min(hide.attacked.auroc, lift.attacked.auroc)
    assert max(hide.attacked.auroc, lift.attacked.auroc) < hide.clean.auroc
    assert both.verdict == "broken"


def match(**changes) -> ThreatModel:
    fields = dict(
        aim="match",
        objective=None,
        match="latent",
        paired=True,
        norm="l2",
        eps=10.0,
        attack="adamax",
        step_size=0.0005,
        queries=800,
    )
    return threat(**(fields | changes))


def test_paired_matching_of_an_easy_latent_gives_chance():
    result = one(Linear(), [match()], ood=OOD[:8], id=ID[:8])
    assert result.mape.max < 1e-3
    assert result.attacked.auroc == pytest.approx(0.5, abs=0.04)  # each OOD row sits on an ID row, above or below it
    assert result.direction == "match"


def test_paired_matching_needs_no_targets_and_unpaired_splits_id():
    assert one(Linear(), [match(queries=5)]).clean.n_id == len(ID)
    report = run(Linear(), [match(queries=5, paired=False)])
    assert report.results[0].clean.n_id == 6
    assert (report.spec.id.n, report.spec.targets.n) == (6, 6)
    assert report.spec.id.sha256 == run(Linear(), id=ID[0::2]).spec.id.sha256
    assert one(Linear(), [match(queries=5, paired=False)], targets=images(5, 0, 1, seed=9)).clean.n_id == len(ID)


def test_matched_targets_are_shown_and_disjoint_from_id():
    targets = images(8, 0.0, 1.0, seed=9)
    _, shown = attacked_images(Linear(), [match(paired=False)], targets=targets)
    rows = {(targets == image).flatten(1).all(1).nonzero().item() for image in shown.reference}
    assert rows == set(range(8))  # each target once
    net = Linear()
    z_in, z_out = net.latent(shown.reference), net.latent(shown.x_adv)
    expected = (z_out - z_in).abs().mean(1) / z_in.abs().amax(1)
    torch.testing.assert_close(shown.mape, expected)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_quantile_brings_scores_onto_the_quantile(level):
    targets = images(21, 0.2, 0.4, seed=3)
    limits = threat(
        aim="quantile", objective=None, quantile=level, norm="l2", eps=2.0, attack="adamax", step_size=0.01, queries=400
    )
    _, shown = attacked_images(threats=[limits], targets=targets)
    wanted = brightness(targets).quantile(level)
    assert (shown.x_adv_scores - wanted).abs().max() < 1e-3


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_a_quantile_above_the_median_is_no_floor_to_hold(level):
    limits = threat(aim="quantile", objective=None, quantile=level, norm="l2", eps=2.0)
    result = run(threats=[limits, BOX], targets=images(21, 0.2, 0.4, seed=3)).results[0]
    assert (result.indicators["other_goal"] is None) == (level == 0.5)
    assert result.verdict != "holds"


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_matching_a_score_follows_neither_its_scale_nor_its_offset(scale, offset):
    detector = lambda x: scale * (brightness(x) + offset)
    limits = match(match="score", attack="lbfgs", step_size=None, queries=30, eps=2.0)
    easy = [OOD.to(torch.float32), OOD] if offset == 0.0 else [OOD]  # float32 does not hold both
    for ood in easy:
        result = one(detector, [limits], id=ID.to(ood.dtype)[:8], ood=ood)
        assert result.attacked.auroc == pytest.approx(0.5, abs=0.04)
        assert result.queries > 2


@pytest.mark.parametrize("attack", ["apgd", "adamax"])
def test_a_target_far_below_the_scores_is_matched_too(attack):
    steep = lambda x: (120 * (brightness(x) - 0.72)).sigmoid()  # 1e-27 on ID images, 1e-5 on OOD images
    low, high = (images(8, level, level + 0.02, seed=5, dtype=torch.float32) for level in (0.22, 0.62))
    limits = match(match="score", attack=attack, step_size=0.01 if attack == "adamax" else None, queries=100)
    result = one(steep, [limits], id=low, ood=high)
    assert result.non_finite_rows == 0
    assert result.attacked.auroc < 0.6


def test_counts_and_flags_are_matched_too():
    result = one(lambda x: brightness(x) > 0.4, [match(match="score", queries=4)])
    assert result.mape.median == 0  # of a target that is 0, MAPE knows nothing between 0 and the largest number


def test_a_row_at_a_tie_with_every_id_score_is_not_finished():
    count = lambda x: (x > 0.5).flatten(1).sum(1)
    bright = torch.zeros(6, *SHAPE)
    bright[:, :, :2] = 0.9  # 8 pixels each
    limits = threat(attack="random-search", queries=400)
    assert one(count, [limits], id=bright, ood=torch.full((5, *SHAPE), 0.52)).attacked.auroc == 0


def test_images_in_bfloat16_are_evaluated():
    result = one(id=ID.to(torch.bfloat16), ood=OOD.to(torch.bfloat16))
    assert result.attacked.auroc < result.clean.auroc


def test_a_zero_target_leaves_a_report_that_reads(tmp_path):
    from oodattack.report import read_report

    step = lambda x: (brightness(x) > 0.4).double() * 10 + 0 * brightness(x)
    report = run(step, [match(match="score", queries=4, eps=0.01)], id=torch.zeros_like(ID))
    report.save(tmp_path / "r.json")
    assert read_report(tmp_path / "r.json") == report


# --- suites ---


def test_a_suite_is_the_worst_of_its_members_row_by_row():
    one_, two = (threat(name, attack="random-search", queries=3) for name in ("one", "two"))
    seen = []
    report = run(Linear(), [suite("s", one_, two), one_, two], watch=seen.append)
    whole, first, second = report.results
    scores = [shown.x_adv_scores for shown in seen]
    assert torch.equal(scores[0], torch.minimum(scores[1], scores[2]))
    assert (scores[1] < scores[2]).any()
    assert (scores[1] > scores[2]).any()  # or the test would show nothing
    torch.testing.assert_close(Linear()(seen[0].x_adv), scores[0])  # the images shown are the winners
    assert whole.members == {"one": first.attacked.auroc, "two": second.attacked.auroc}
    assert whole.attacked.auroc <= min(whole.members.values())
    assert whole.queries == first.queries + second.queries
    assert whole.direction == "hide"


def side(scores: list[float]) -> Side:
    n = len(scores)
    t, none = torch.tensor(scores), torch.zeros(n)
    counts = (none + 1, none + 1, none, none, none.bool(), none)
    return Side(t, t, t, t, *counts, None, None, None, None, t.view(-1, 1, 1, 1))


def test_worst_by_hand():
    def outcome(ood, id_):
        return Outcome(side(ood), side(id_), 1.0, "a", True, None, None, ["d"])

    found = worst({"a": outcome([1.0, 5.0], [1.0, 5.0]), "b": outcome([2.0, 4.0], [2.0, 4.0])})
    assert found.ood.scores.tolist() == [1.0, 4.0]  # lowest
    assert found.id.scores.tolist() == [2.0, 5.0]  # highest
    assert found.ood.distance.tolist() == [1.0, 4.0]  # goes with the row that won
    assert found.ood.queries.tolist() == [2.0, 2.0]
    assert found.seconds == 2.0


# --- honesty ---


def test_the_clean_point_counts():
    dark = torch.zeros(6, *SHAPE, dtype=torch.float64)  # nothing is darker: the clean rows are already optimal
    for attack in (threat(), threat(attack="random-search"), threat(attack="pgd", step_size=1.0, queries=3)):
        result = one(threats=[attack], ood=dark)
        assert result.attacked == result.clean
        assert result.distance == 0
        assert result.indicators["clean_best_share"] == 1
    wide = one(threats=[threat(eps=1.0)], ood=dark)
    assert wide.queries == 1  # the first query is the clean image, and it already passes every ID score
    assert wide.attacked == wide.clean


def test_attacked_scores_are_those_of_the_returned_images():
    for limits in (threat(), threat(norm="l2", eps=0.5), threat(norm="l1", eps=1.0), threat(init="clean")):
        result, shown = attacked_images(Linear(), [limits])
        assert len(shown.x_adv) == len(OOD)
        torch.testing.assert_close(shown.x_adv_scores, Linear()(shown.x_adv))
        assert result.attacked.auroc == auroc(Linear()(ID), shown.x_adv_scores)
        assert result.distance <= limits.eps * (1 + 1e-6)
        torch.testing.assert_close(result.distance, limits.distance(shown.x_adv, OOD).max().item())
        assert ((shown.x_adv >= 0) & (shown.x_adv <= 1)).all()


def test_the_8_bit_number_is_that_of_rounded_images():
    coarse = lambda x: (x.flatten(1) * 1000).frac().sum(1) + brightness(x)  # rounding to 8 bits changes this a lot
    result, shown = attacked_images(coarse, [threat(attack="random-search")])
    rounded = coarse((shown.x_adv * 255).round() / 255)
    assert result.attacked_8bit.auroc == auroc(coarse(ID), rounded)
    assert result.attacked_8bit.auroc != result.attacked.auroc


def test_no_detector_survives_the_whole_box():
    report = run(Linear(-1.0), [threat(), BOX])
    assert {r.threat: r.attacked.auroc for r in report.results}["box"] <= 0.5
    assert report.results[0].indicators["full_box_auroc"] == report.results[1].attacked.auroc


def test_a_detector_that_hardly_moves_holds_only_beside_a_sanity_run():
    tiny = threat(eps=1e-4)
    (alone,) = run(threats=[tiny]).results
    assert alone.verdict == "inconclusive"
    assert "no sanity-full-box run" in alone.reason
    beside, _ = run(threats=[tiny, BOX]).results
    assert beside.verdict == "holds"


def test_random_search_beside_an_attack_is_noted():
    luck = threat("luck", attack="random-search", queries=8)
    strong, itself = run(threats=[threat(), luck]).results
    assert strong.indicators["random_auroc"] == itself.attacked.auroc >= strong.attacked.auroc
    assert itself.indicators["random_auroc"] is None  # it cannot be beaten by itself
    elsewhere, _ = run(threats=[threat(), threat("luck", attack="random-search", eps=0.05)]).results
    assert elsewhere.indicators["random_auroc"] is None  # another radius says nothing


def no_grad(x):
    with torch.no_grad():
        return brightness(x)


def numpy_score(x):
    return torch.from_numpy(x.numpy().mean(axis=(1, 2, 3)))


def constant_grad(x):
    return (brightness(x) > 0.45).double() + 0 * brightness(x)


def test_a_graph_that_was_cut_off_is_no_protection():
    hidden, open_ = (run(f, [threat(), BOX]).results for f in (no_grad, brightness))
    assert [r.attacked for r in hidden] == [r.attacked for r in open_]
    assert all(r.indicators["white_box"] and r.surrogate == NAME for r in hidden)
    assert [r.surrogate for r in open_] == [None, None]


def test_a_detector_without_gradient_is_searched_blindly():
    result, box = run(numpy_score, [threat(eps=1e-3), BOX]).results
    assert result.attack.startswith("square")
    assert result.indicators["white_box"] is False
    assert result.verdict == "inconclusive"
    assert "no gradient" in result.reason
    assert box.verdict in ("broken", "inconclusive")


def test_zero_gradients_are_counted():
    rough = lambda x: (x.flatten(1).var(dim=1) - 0.04).relu()  # of noise: a gradient that is zero there too is none
    result, _ = run(lambda x: constant_grad(x) + rough(x), [threat(eps=1e-3), BOX], ood=OOD + 0.2).results
    assert result.indicators["zero_gradient_share"] > 0.9
    assert result.verdict == "inconclusive"


# --- sharing ---


def test_one_search_serves_detectors_with_one_latent():
    def rows_for(*powers):
        net = Linear()
        heads = {f"head{i}@net": Head(net, p) for i, p in enumerate(powers)}
        results = run(heads, [match(match="logits", queries=200, eps=0.5)]).results
        return net.rows, results

    alone, _ = rows_for(1.0)
    together, (one_, two) = rows_for(1.0, 2.0)
    assert one_.shared_with == ["head1@net"]
    assert two.shared_with == ["head0@net"]
    assert together < alone + 200 * len(OOD) / 2  # the second costs some scoring, not another search
    assert one_.mape == two.mape
    one_net = rows_for(1.0)[1][0]
    assert one_net.attacked == one_.attacked  # nothing else changes


def test_detectors_on_two_networks_share_nothing():
    heads = {"a@x": Head(Linear(), 1.0), "a@y": Head(Linear(), 1.0)}
    results = run(heads, [match(match="logits", queries=5)]).results
    assert [r.shared_with for r in results] == [[], []]
    assert [r.network for r in results] == ["x", "y"]


def test_a_threat_that_does_not_fit_is_skipped_and_named():
    report = run({"plain": brightness, "lin": Linear()}, [match(queries=4), match(name="l", match="logits", queries=4)])
    skipped = {(s.detector, s.threat): s.reason for s in report.skipped}
    assert skipped[("plain", "t")] == "the detector gives no `latent` to match"
    assert skipped[("lin", "l")] == "its score is not a function of the logits"
    assert [(r.detector, r.threat) for r in report.results] == [("lin", "t")]


# --- the same numbers again ---


def plain(report) -> dict:
    fields = report.model_dump(by_alias=True)
    fields.pop("created")
    for result in fields["results"]:
        result.pop("seconds")
    return fields


THREATS = [threat("a"), threat("b", aim="both", restarts=2), match(name="m", queries=30, paired=False)]


def test_the_same_seed_gives_the_same_report():
    first, again = (plain(run(Linear(), THREATS)) for _ in range(2))
    assert first == again
    other = plain(run(Linear(), THREATS, seed=1))
    assert other["results"] != first["results"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_size_changes_nothing_but_rounding(dtype):
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(16, 16, dtype=dtype, generator=generator)
    score = lambda x: (x.flatten(1) @ hidden).relu().sum(1)
    few = threat("few", queries=6)
    blind = threat("blind", attack="random-search", queries=2)
    id_, ood = images(40, 0, 0.6, seed=6, dtype=dtype), images(24, 0.3, 0.7, seed=7, dtype=dtype)
    seen = {}
    for batch_size in (1, 7, 64):
        shown = []
        results = run(score, [few, blind], id=id_, ood=ood, batch_size=batch_size, watch=shown.append).results
        seen[batch_size] = (results, shown)
    for results, shown in seen.values():
        for mine, reference, pictures, others in zip(results, seen[64][0], shown, seen[64][1], strict=True):
            assert mine.attacked.auroc == pytest.approx(reference.attacked.auroc, abs=0.002)
            assert mine.clean.auroc == pytest.approx(reference.clean.auroc, abs=1e-5)
            torch.testing.assert_close(pictures.start_scores, others.start_scores, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(shown[1].x_adv, seen[64][1][1].x_adv, atol=1e-6, rtol=0)  # the very same draws


def test_a_row_does_not_care_who_is_beside_it():
    seen = []
    run(threats=[threat(attack="random-search", queries=2)], ood=OOD[:4], watch=seen.append)
    run(threats=[threat(attack="random-search", queries=2)], ood=OOD, watch=seen.append)
    torch.testing.assert_close(seen[0].x_adv, seen[1].x_adv[:4])


# --- what goes in ---


def test_start_images_of_its_own():
    starts = {"noise": images(5, 0, 1, seed=8)}
    limits = threat("from-noise", start="noise")
    near, noise = run(threats=[threat(), limits], starts=starts).results
    assert (near.ood, near.threat) == ("near", "t")
    assert (noise.ood, noise.threat, noise.clean.n_ood) == ("noise", "from-noise", 5)
    assert noise.clean.auroc == auroc(brightness(ID), brightness(starts["noise"]))
    report = run(threats=[limits], starts=starts, ood={})  # no OOD set is needed then
    assert report.results[0].attacked == noise.attacked
    assert [(s.name, s.n) for s in report.spec.starts] == [("noise", 5)] and report.spec.ood == []
    assert run(threats=[threat()], starts=starts).spec.starts == []
    with pytest.raises(ValueError, match=r"`starts` must hold images for start 'noise', got \[\]. Add them"):
        run(threats=[limits])
    with pytest.raises(ValueError, match="must have names of their own, got other images as 'noise' in each"):
        run(threats=[threat(), limits], starts=starts, ood={"noise": OOD})  # a report could not tell them apart
    twice = run(threats=[threat(), limits], starts=starts, ood=starts).results
    assert [(cell.ood, cell.threat) for cell in twice] == [("noise", "t"), ("noise", "from-noise")]


def test_functions_modules_and_mappings_are_detectors():
    assert one(brightness).detector == "brightness"
    assert one(Linear()).detector == "linear"
    assert one({"mine@net": brightness}).network == "net"
    report = run({"a": brightness, "b": Linear()}, ood={"x": OOD, "y": OOD + 0.1})
    assert [(r.detector, r.ood) for r in report.results] == [("a", "x"), ("b", "x"), ("a", "y"), ("b", "y")]
    assert report.spec.networks["a"] == ""
    assert report.spec.networks["b"] == sha256_of(Linear())


def test_threats_by_name_path_and_object(tmp_path):
    (tmp_path / "mine.toml").write_text(
        'norm = "linf"\neps = 0.01\naim = "hide"\nobjective = "score"\n'
        'start = "ood"\ninit = "clean"\nattack = "apgd"\nqueries = 4\n'
        'restarts = 1\niterate = "best"\nsource = "s"\n'
    )
    report = run(threats=["linf-8-255", tmp_path / "mine.toml", threat()])
    assert [r.threat for r in report.results] == ["linf-8-255", "mine", "t"]
    assert list(report.spec.threats) == ["linf-8-255", "mine", "t"]


def test_a_threat_given_twice_runs_once_and_a_name_stands_for_one():
    assert len(run(threats=["linf-8-255", read_threat("linf-8-255")]).results) == 1
    with pytest.raises(ValueError, match=r"`threats` must differ in name, got two called 't'\. Rename"):
        run(threats=[threat(), threat(eps=0.2)])


def test_one_id_image_is_enough_unless_targets_are_split_off():
    assert one(id=ID[:1]).attacked.n_id == 1
    with pytest.raises(ValueError, match="`id` must hold 2 images, one of them a target, got 1"):
        run(Linear(), [match(paired=False)], id=ID[:1])


def test_weights_in_bfloat16_can_be_hashed():
    half = nn.Linear(2, 2).to(torch.bfloat16)
    assert len(sha256_of(half)) == 64
    before = sha256_of(half)
    half.weight.data[0, 0] += 1
    assert sha256_of(half) != before


def test_a_network_of_one_name_is_one_network():
    def no_search(*_):
        raise AssertionError("a search began")

    a, b = (MSP(Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))) for _ in range(2))
    one_line = "`detector` must have one network called 'ce', got other weights behind 'energy@ce' and 'msp@ce'"
    with pytest.raises(ValueError, match=f"^{one_line}. Name them apart after the @.$"):
        sha256_of_networks({"energy@ce": a, "mine@ce": brightness, "msp@ce": b})
    with pytest.raises(ValueError, match=one_line):
        run({"energy@ce": a.double().eval(), "msp@ce": b.double().eval()}, progress=no_search)
    assert sha256_of_networks({"msp@a": a, "msp@b": b}) == {"a": sha256_of(a), "b": sha256_of(b)}
    assert sha256_of_networks({"msp@ce": a, "mine@ce": brightness}) == {"ce": sha256_of(a)}  # in any order
    assert sha256_of_networks({"mine@ce": brightness, "msp@ce": a}) == {"ce": sha256_of(a)}


def test_a_network_with_its_outlier_class_is_the_same_as_without():
    whole = Classifier(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 4)))
    cut = id_classes(whole, 3)
    both = {"msp@dos": MSP(cut), "outlier-class@dos": OutlierClass(whole)}
    assert sha256_of_networks(both) == {"dos": sha256_of(whole)}
    with torch.no_grad():
        cut.network[2].bias[0] += 1
    with pytest.raises(ValueError, match="must have one network called 'dos'"):
        sha256_of_networks(both)


def test_a_network_inside_a_detector_of_ones_own_is_the_same():
    class Mine(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model
            self.register_buffer("centre", torch.rand(3))

    a, b = (Classifier(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3))) for _ in range(2))
    for both in ({"mine@ce": Mine(a), "msp@ce": MSP(a)}, {"msp@ce": MSP(a), "mine@ce": Mine(a)}):
        assert len(sha256_of_networks(both)) == 1
    with pytest.raises(ValueError, match="must have one network called 'ce'"):
        sha256_of_networks({"mine@ce": Mine(b), "msp@ce": MSP(a)})


def test_two_detectors_of_ones_own_may_stand_on_one_network():
    class Own(nn.Module):
        def __init__(self, body, name):
            super().__init__()
            self.body = body
            self.register_buffer(name, torch.rand(3))

    a, b = (nn.Linear(4, 3) for _ in range(2))
    assert len(sha256_of_networks({"maha@r": Own(a, "means"), "knn@r": Own(a, "bank")})) == 1
    with pytest.raises(ValueError, match="must have one network called 'r'"):
        sha256_of_networks({"maha@r": Own(a, "means"), "knn@r": Own(b, "bank")})


def test_a_network_behind_many_detectors_is_hashed_once(monkeypatch):
    net, calls = Classifier(nn.Linear(16, 3)), []
    monkeypatch.setattr(identity, "sha256_of_module", lambda module: calls.append(module) or "digest")
    assert sha256_of_networks({f"{i}@ce": MSP(net) for i in range(3)}) == {"ce": "digest"}
    assert calls == [net]


def test_progress_ends_at_all_of_it():
    calls = []
    run(Linear(), [threat(), threat("b", aim="both")], progress=lambda *told: calls.append(told))
    done, total = [c[1] for c in calls], {c[2] for c in calls}
    assert done == sorted(done)
    assert total == {20 * 8 + 20 * (8 + 12)}  # queries x rows
    assert done[-1] == max(total)
    assert "t on near: linear" in {c[0] for c in calls}


def nan_on_dark(x):
    return torch.where(brightness(x) < 0.3, float("nan"), brightness(x))


def nan_under_attack(x):
    level = brightness(x)
    return level.masked_fill((level > 0.5) & (level < 0.62), float("nan"))  # neither ID nor OOD + 0.3 is there


@dataclass
class ByValue:
    gain: float = 1.0

    def __call__(self, x):
        return self.gain * brightness(x)


class Training(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Dropout()

    def forward(self, x):
        return brightness(x)


def half_training():
    detector = Training().eval()
    detector.inner.train()
    return detector


WRONG = {
    "NaN scores": ({"detector": nan_on_dark}, "'nan-on-dark' must return finite scores, got .* NaN or infinite"),
    "column": ({"detector": lambda x: brightness(x)[:, None]}, r"one score a row, shape \(12,\), got \(12, 1\)"),
    "scalar": ({"detector": lambda x: x.mean()}, r"must return one score a row, shape \(12,\), got \(\)"),
    "logits": ({"detector": lambda x: x.flatten(1)}, r"got \(12, 16\)\. If these are logits, score them, as"),
    "numpy scores": ({"detector": lambda x: x.numpy()[:, 0, 0, 0]}, r"got ndarray\. Return a flat tensor, torch\.as"),
    "list": ({"detector": lambda x: [0.0] * len(x)}, "must return one score a row, .* got list"),
    "elsewhere": (
        {"detector": lambda x: torch.empty(len(x), device="meta")},
        r"must return scores where its images are, on cpu, got meta\. End with `\.to\(x\.device\)`",
    ),
    "raises": ({"detector": lambda x: 1 / 0}, r"must score images \(1, 4, 4\), got ZeroDivisionError: division"),
    "in place": (
        {"detector": lambda x: brightness(x.sub_(0.1)), "id": ID.clone()},
        "must leave its images alone, got changes in place. Work on a copy",
    ),
    "training": ({"detector": Training()}, "detector 'training' must be in eval mode, got training mode. Call .eval"),
    "inside": ({"detector": half_training()}, "must be in eval mode, got training mode in 'inner'"),
    "shape": ({"ood": torch.rand(3, 3, 4, 4)}, r"`near` must have the shape of .*, \(1, 4, 4\), got \(3, 4, 4\)"),
    "range": ({"ood": OOD * 255}, r"`near` must be in \[0, 1\], got \[78.*Divide 8-bit values by 255"),
    "NaN images": ({"ood": OOD / 0 * 0}, "`near` must be finite, got NaN or infinity"),
    "two NaN images": (
        {"ood": torch.stack([OOD[0], OOD[1] / 0, OOD[1], OOD[0] / 0 * 0])},
        r"`near` must be finite, got NaN or infinity in 2 of 4 images, the first in row 1\. Remove those images\.",
    ),
    "id range": ({"id": ID - 1}, r"`id` must be in \[0, 1\]"),
    "id range again": ({"id": ID - 1, "ood": {"id": OOD}}, r"`id` must be in \[0, 1\]"),
    "bytes": ({"ood": torch.zeros(3, 1, 4, 4, dtype=torch.uint8)}, "`near` must be floating point, got torch.uint8"),
    "empty": ({"ood": OOD[:0]}, "`near` must hold at least one image"),
    "empty id": ({"id": ID[:0]}, "`id` must hold at least one image"),
    "array": ({"ood": OOD.numpy()}, r"`near` must be a tensor .*, got ndarray\. Write torch\.from_numpy\(x\)"),
    "id list": ({"id": ID.tolist()}, "`id` must be a tensor of images .*, got list"),
    "one image": ({"ood": OOD[0]}, r"`near` must have shape \(N, C, H, W\), got \(1, 4, 4\)"),
    "no set": ({"ood": {}}, "must name at least one each, got no ood. Add it"),
    "no threat": ({"threats": []}, "must name at least one each, got no threats. Add it"),
    "no detector": ({"detector": {}}, "must name at least one each, got no detector. Add it"),
    "list of detectors": ({"detector": [brightness]}, "'list' must be callable, images -> scores, got a list. Write"),
    "postprocessor": (
        {"detector": SimpleNamespace(postprocess=brightness)},
        r"must be callable, .*, got a SimpleNamespace. Write oodattack.adapters.openood\(it, network\)",
    ),
    "score and more": (
        {"detector": lambda x: (brightness(x), x)},
        r"one score a row, shape \(12,\), got tuple. Return the one entry that is the score",
    ),
    "scores by name": (
        {"detector": lambda x: {"energy": brightness(x)}},
        r"one score a row, shape \(12,\), got dict. Return the one value that is the score",
    ),
    "network of transformers": (
        {"detector": lambda x: SimpleNamespace(logits=x.flatten(1))},
        r"got SimpleNamespace. Score its `.logits`, as detectors.Energy\(Classifier\(network\)\) does",
    ),
    "class": ({"detector": Training}, "must be an object, got the class Training. Make one of it"),
    "lazy": ({"detector": torch.nn.LazyLinear(1).eval()}, "must have all its weights, got 'weight' without a shape"),
    "threat": ({"threats": ["linf"]}, "`threat` must be one of .*, got 'linf'"),
    "targets": ({"targets": torch.rand(3, 1, 5, 4)}, "`targets` must have the shape of the ID images"),
    "threat of no kind": ({"threats": [1]}, r"`threats` must be names, paths or threat models, got \[1\]. Name some"),
    "no threats at all": ({"threats": 1}, "`threats` must be names, paths or threat models, got 1. Name some"),
    "batch in words": ({"batch_size": "8"}, "`batch_size` must be a whole number, got '8'. Leave it out"),
    "batch of True": ({"batch_size": True}, "`batch_size` must be a whole number, got True. Leave it out"),
    "half a batch": ({"batch_size": 2.5}, "`batch_size` must be a whole number, got 2.5. Leave it out"),
    "large seed": ({"seed": 2**64}, r"`seed` must be in \[0, 2\^63\), got 18446744073709551616. Write 0"),
    "negative seed": ({"seed": -1}, r"`seed` must be in \[0, 2\^63\), got -1. Write 0"),
    "numbers for detectors": ({"detector": {1: brightness}}, "`detector` must be detectors by name, got dict"),
    "list of starts": ({"starts": [OOD]}, "`starts` must be images by name, got list"),
    "compares by value": ({"detector": ByValue()}, "detector 'by-value' must be hashable, got a ByValue, which is not"),
    "batch of none": ({"batch_size": 0}, "`batch_size` must be >= 1, got 0. Leave it out"),
    "seed": ({"seed": 1.5}, "`seed` must be a whole number, got 1.5. Write 0"),
    "precision": ({"precision": "fp16"}, "`precision` must be one of full, bfloat16, got 'fp16'"),
    "numbers for names": ({"ood": {1: OOD}}, "`ood` must be images by name, got dict"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        run(**options)
    assert "\n" not in str(caught.value)


def test_a_detector_that_is_called_wrongly_is_not_answered_in_our_name():
    with pytest.raises(ValueError, match=r"must score images \(1, 4, 4\), got TypeError: .*'y'\. Correct detector"):
        run(lambda x, y: x.mean((1, 2, 3)))


def test_a_black_box_is_not_asked_beside_its_images(monkeypatch):
    """Rows that a score without any gradient is asked before a search, of two sets as of one but for their scores."""
    asked = []

    def blind(x):
        asked.append(len(x))
        return torch.as_tensor(brightness(x).detach().numpy())

    def rows(**sets):
        asked.clear()
        evaluate(blind, id=ID, ood=sets, threats=[threat(queries=2)], seed=0)
        return sum(asked)

    one, two = rows(a=OOD), rows(a=OOD, b=OOD.flip(3))
    assert two - one <= one - len(ID)


def test_images_that_look_channels_last_are_told_so():
    net = nn.Conv2d(3, 2, 3).eval()
    words = r"must score images \(5, 4, 3\), .*channels-last: give it x\.permute\(0, 3, 1, 2\)"
    with pytest.raises(ValueError, match=words):
        run(lambda x: net(x).mean((1, 2, 3)), id=torch.rand(8, 5, 4, 3), ood=torch.rand(4, 5, 4, 3))


def test_what_this_package_says_of_a_detector_is_not_wrapped_in_a_second_remedy():
    class Two(nn.Linear):
        def forward(self, x):
            return {"logits": super().forward(x.flatten(1))}

    with pytest.raises(ValueError) as caught:
        run(MSP(Classifier(Two(16, 3).double().eval(), head="")).eval())
    assert str(caught.value).startswith("detector 'msp': the network must return")
    assert "Correct detector" not in str(caught.value) and "ValueError" not in str(caught.value)


@pytest.mark.parametrize("fails_at", [1, 5, 9, 15, 30, 60, 100, 150])
def test_a_detector_that_fails_at_any_time_is_told_in_one_line(fails_at):
    class Flaky(Linear):
        calls = 0

        def forward(self, x):
            Flaky.calls += 1
            if Flaky.calls >= fails_at:
                raise RuntimeError("third time\nunlucky")
            return super().forward(x)

    with pytest.raises(ValueError, match=r"got RuntimeError: third time unlucky \(test_evaluate.py, line \d+\)\. Corr"):
        run(Flaky(), ["ood-aa", match(queries=40)])
    assert Flaky.calls in (fails_at, fails_at + 1)  # whatever fails in the search for a gradient has none


@pytest.mark.parametrize("batch_size", [None, 4])
def test_images_survive_a_detector_that_works_in_place(batch_size):
    """The changes begin with the second batch of four."""
    images = ID.clone()
    with pytest.raises(ValueError, match="must leave its images alone, got changes in place"):
        run(lambda x: brightness(x.sub_(0.1) if x.max() > 0.3 else x), id=images, batch_size=batch_size)
    assert torch.equal(images, ID)


def test_nan_under_attack_is_not_swallowed():
    result = one(nan_under_attack, [threat()], ood=OOD + 0.3)
    assert result.indicators["non_finite_share"] > 0  # counted, and kept out of the returned images
    assert 0 < result.non_finite_rows <= len(OOD)


def test_infinity_in_the_middle_of_a_search_leaves_the_best_finite_point():
    def spoilt(x):
        level = brightness(x)
        return level.where(level > 0.48, -float("inf"))  # an attacker's dream, were it a number

    result, shown = attacked_images(spoilt, [threat(eps=0.3)], id=ID + 0.35, ood=OOD + 0.3)
    assert shown.x_adv_scores.isfinite().all() and (shown.x_adv_scores > 0.48).all()
    assert (shown.x_adv_scores <= shown.start_scores).all()
    assert result.attacked.auroc < result.clean.auroc
    assert 0 < result.non_finite_rows <= len(OOD)


def test_a_gradient_that_is_nan_stops_nobody():
    class Kinked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return brightness(x)

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            slope = grad[:, None, None, None].expand_as(x) / x[0].numel()
            return torch.where(brightness(x).view(-1, 1, 1, 1) < 0.45, float("nan"), slope)

    result = one(Kinked.apply, [threat()])
    assert result.attacked.auroc < result.clean.auroc
    assert result.non_finite_rows > 0 and result.indicators["non_finite_share"] > 0


# --- numbers ---


@pytest.mark.parametrize(("n_id", "n_ood"), [(1, 1), (1, 7), (3, 1), (49, 23)])
@pytest.mark.parametrize("gap", [-100.0, 0.0, 100.0])
def test_numbers_fit_the_report_at_the_edges(n_id, n_ood, gap):
    found = numbers(torch.arange(n_id).float() / 7, gap + torch.arange(n_ood).float() / 7)
    assert found.auroc_low <= found.auroc <= found.auroc_high
    assert (found.n_id, found.n_ood) == (n_id, n_ood)


# --- against torchattacks ---


@pytest.mark.parametrize("steepness", [1, 20])  # the same order of scores; at 20 the peer's cross-entropy saturates
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_at_least_as_strong_as_torchattacks_on_the_wrapped_detector(seed, steepness):
    torchattacks = pytest.importorskip("torchattacks")
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(392, 5),
    ).requires_grad_(False)
    for parameter in net.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5)
    score = lambda x: -steepness * net.eval()(x).logsumexp(1)
    draw = torch.rand(60, 1, 16, 16, generator=generator)
    order = score(draw).argsort()
    id_, ood = draw[order[:30]], draw[order[30:]]  # AUROC 1 before the attack
    tau = score(id_).max()

    class Wrapped(nn.Module):
        """Two logits, class 1 is "OOD"."""

        def __init__(self):
            super().__init__()
            self.net, self.gradients = net, 0

        def forward(self, x):
            self.gradients += x.requires_grad
            return torch.stack([tau - score(x), score(x) - tau], dim=1)

    wrapped = Wrapped().eval()
    steps, eps = 12, 8 / 255
    torch.manual_seed(0)
    theirs = torchattacks.PGD(wrapped, eps=eps, alpha=eps / 4, steps=steps)(ood, torch.ones(30, dtype=torch.long))
    assert wrapped.gradients == steps
    assert (theirs - ood).abs().max() <= eps * (1 + 1e-4)
    limits = read_threat("linf-8-255").model_copy(update={"name": "short", "queries": steps + 2})
    same = threat("pgd", attack="pgd", step_size=0.25, eps=eps, queries=steps + 2)
    # queries: the clean call, as many gradients as theirs, and the score of the last point, which they do not look at
    left = auroc(score(id_), score(theirs))
    ours, pgd = run(score, [limits, same], id=id_, ood=ood).results
    assert ours.queries <= steps + 2
    assert ours.attacked.auroc <= left + 1e-9
    assert ours.attacked.auroc < ours.clean.auroc - 0.2
    assert pgd.attacked.auroc <= left + 0.01  # the same steps from other random starts


def test_a_score_that_changes_from_call_to_call_never_holds():
    generator = torch.Generator().manual_seed(0)
    noisy = lambda x: brightness(x) + torch.rand(len(x), generator=generator, dtype=x.dtype)
    result, _ = run(noisy, [threat(eps=1e-3), BOX]).results
    assert result.indicators["repeatable"] is False
    assert result.verdict != "holds" and result.indicators["row_independent"] is None


def test_a_score_that_depends_on_its_batch_never_holds():
    result, _ = run(lambda x: brightness(x) - brightness(x).mean(), [threat(eps=1e-3), BOX]).results
    assert result.indicators["row_independent"] is False
    assert result.verdict != "holds"


def test_a_score_that_needs_a_batch_is_refused():
    def standardised(x):
        own = brightness(x)
        return (own - own.mean()) / own.var(correction=0).sqrt()  # 0 / 0 for a row alone

    with pytest.raises(ValueError, match=r"'standardised' must score one image alone, got nan, in its batch"):
        run(standardised, [threat(eps=1e-3), BOX])


def test_scores_that_are_counts_are_taken_as_numbers():
    counts = lambda x: (x > 0.5).flatten(1).sum(1)
    result, _ = run(counts, [threat(attack="random-search", step_size=None), BOX]).results
    assert result.attack.startswith("random-search")
    assert 0 <= result.attacked.auroc <= result.clean.auroc


def test_random_search_asks_the_detector_itself():
    class Stepped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.surrogate = Surrogate("nothing like it", lambda x: -brightness(x))
            self.eval()

        def forward(self, x):
            return brightness(x)

    (result,) = run(Stepped(), [threat(attack="random-search", step_size=None)]).results
    assert result.surrogate is None
    assert result.attacked.auroc <= result.clean.auroc
    (plain,) = run(brightness, [threat(attack="random-search", step_size=None)]).results
    assert result.attacked == plain.attacked


def test_one_image_in_a_hundred_may_be_in_both_sets():
    mine, other = images(4, 0, 1, seed=1), images(100, 0, 1, seed=2)
    digests = set(exact_digests(mine))
    check_disjoint(torch.cat([mine[:1], other[1:]]), "near", digests)
    with pytest.raises(ValueError, match=r"`near` must be disjoint from the ID images, got 2 of 100 in both\. Split"):
        check_disjoint(torch.cat([mine[:2], other[2:]]), "near", digests)


def test_id_images_are_hashed_once_whatever_they_are_compared_with(monkeypatch):
    hashed = []
    monkeypatch.setattr("oodattack.evaluation.arguments.exact_digests", lambda x: hashed.append(x) or exact_digests(x))
    monkeypatch.setattr("oodattack.evaluation.check.exact_digests", lambda x: hashed.append(x) or exact_digests(x))
    run(ood={"a": OOD, "b": OOD + 0.1})
    assert [len(x) for x in hashed] == [len(ID), len(OOD), len(OOD)]


def test_sets_must_be_disjoint():
    with pytest.raises(ValueError, match=r"`targets` must be disjoint from the ID images, got \d+ of"):
        evaluate(brightness, id=ID, ood={"o": OOD}, threats=[threat()], seed=0, targets=ID)


def test_what_a_search_follows_and_is_not_finite_is_named():
    far = lambda z: z.flatten(1).masked_fill((brightness(z) > ID.flatten(1).mean(1).max())[:, None], torch.nan)

    class Mine(torch.nn.Module):
        def __init__(self, **own):
            super().__init__()
            vars(self).update(own)
            self.eval()

        def forward(self, z):
            return brightness(z)

    bright = {"bright": 0.5 + OOD / 2}
    follows = Mine(surrogate=Surrogate("a blurred score", lambda z: far(z).mean(1)))
    says = (
        r"^mine, linf-8-255 on bright: the loss must be finite on clean inputs, got \d+ of \d+ that are not\. "
        r"Correct the surrogate 'a blurred score' that the search follows, or leave the threat out\.$"
    )
    with pytest.raises(FloatingPointError, match=says):
        run({"mine": follows}, ["linf-8-255"], ood=bright)
    theirs = threat(attack="torchattacks:PGD", step_size=None, aim="match", objective=None, match="latent", paired=True)
    says = r"^mine, .* on bright: the loss must be .*\. Correct the latent that the search follows, or leave"
    with pytest.raises(FloatingPointError, match=says):
        run({"mine": Mine(latent=far)}, [theirs], ood=bright)


COPIES = {
    "a shipped name": ({"name": "linf-8-255", "eps": 1.0}, r"`threats` must not bear .* `eps` changed\. Give it an"),
    "out of range": ({"eps": 8.0}, r"`eps` must be in \(0, 1\] for linf, got 8\. Write 8/255, not 8\.$"),
    "another range": ({"queries": 0}, r"`queries` must be (greater than or equal to 1|>= 2 a restart), got 0"),
    "no field": ({"radius": 0.1}, "`?radius` must be a known field"),
}  # fmt: skip


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a suite"])
@pytest.mark.parametrize(("change", "says"), COPIES.values(), ids=COPIES)
def test_a_copy_with_changes_is_looked_at_again(change, says, inside):
    copy = read_threat("linf-8-255").model_copy(update={"name": "mine", **change})
    with pytest.raises(ValueError, match=says) as caught:
        asked = Suite(name="suite", members=(copy,), source="test") if inside else copy
        evaluate(brightness, id=ID, ood={"o": OOD}, threats=asked, seed=0)
    assert "\n" not in str(caught.value)
    assert inside or str(caught.value).startswith(("`threats` must", "threat 'mine': "))


def test_a_shipped_threat_by_any_way_is_itself(tmp_path):
    copy = read_threat("linf-8-255").model_copy(update={"name": "quick", "queries": 5, "eps": "1/255"})
    shipped = [read_threat("linf-8-255"), read_threat("flagship"), "linf-8-255", "flagship"]
    report = run(brightness, [*shipped, copy])
    assert list(report.spec.threats) == ["linf-8-255", "flagship", "quick"]
    text = (preset_folder() / "linf-8-255.toml").read_text(encoding="utf-8")
    (tmp_path / "linf-8-255.toml").write_text(text.replace('"8/255"', '"9/255"'))
    with pytest.raises(ValueError, match=r"with `eps` changed\. Give it another `name`, or the file another one\."):
        run(brightness, [tmp_path / "linf-8-255.toml"])


def test_a_report_without_a_cell_is_refused():
    with pytest.raises(ValueError, match=r"`threats` must apply to a detector.*gives no logits to match"):
        evaluate(brightness, id=ID, ood={"o": OOD}, threats=["liang-logit"], seed=0)


def test_spec_describes_what_was_evaluated_when_targets_are_split_off():
    report = run(brightness, ["liang-quantile"])
    assert report.spec.id.n == report.results[0].clean.n_id
    assert report.spec.targets is not None and report.spec.targets.n + report.spec.id.n == len(ID)


def test_a_full_box_with_the_same_start_images_counts():
    start = {"start": "noise"}
    starts = {"noise": OOD + 0}
    asked = [threat(eps=1e-3, **start), BOX.model_copy(update=start)]
    result, _ = evaluate(brightness, id=ID, ood={}, threats=asked, seed=0, starts=starts).results
    assert result.indicators["full_box_auroc"] is not None


@pytest.mark.parametrize("surrogate", [None, Surrogate("itself", brightness, exact=False)])
def test_nan_where_a_search_asks_whether_a_row_is_finished_confirms_nothing(surrogate):
    def score(x):
        return nan_under_attack(x)

    if surrogate:
        score.surrogate = surrogate
    result = one(score, [threat()], ood=OOD + 0.3)
    assert result.attacked.auroc <= result.clean.auroc


def test_percentiles_of_crossings_are_crossings_that_were_found():
    found = crossing(torch.tensor([0.0, 1.0]), torch.tensor([0.1, 0.2, 0.4, float("inf")]))
    # of 4 rows, at 0.3, 1.5 and 2.7 of 0..3: the row below each
    assert (found.p10, found.median, found.p90, found.share) == pytest.approx((0.1, 0.2, 0.4, 0.75))
    assert crossing(torch.tensor([0.0, 1.0]), torch.tensor([0.1, float("inf"), float("inf")])).median is None


def test_the_median_of_two_rows_lies_between_them():
    assert matched(torch.tensor([0.0, 1.0])).median == 0.5


def test_a_single_threat_will_do():
    assert [r.threat for r in run(threats=threat("one")).results] == ["one"]
    assert [r.threat for r in run(threats="linf-8-255-random").results] == ["linf-8-255-random"]


def test_what_a_composed_attack_spends_first_is_on_its_axis_and_in_its_total():
    first, told = threat("first", queries=10, eps=0.02), []
    report = run(threats=[first, threat("then", after=first, eps=0.02)], progress=lambda _l, d, t: told.append((d, t)))
    points = {c.threat: dict(c.points) for c in report.curves}
    assert list(points["then"])[:3] == [0, 11, 12] and list(points["then"])[-1] == 30
    left = {r.threat: r.attacked.auroc for r in report.results}
    assert points["then"][11] == pytest.approx(points["first"][10]) == pytest.approx(left["first"])
    assert points["then"][30] == pytest.approx(left["then"])
    assert {t for _, t in told} == {len(OOD) * (10 + 10 + 20)}
    assert [d for d, _ in told] == sorted(d for d, _ in told) and told[-1] == (len(OOD) * 40, len(OOD) * 40)


def test_a_composed_attack_is_stuck_on_rows_that_neither_of_the_two_moved(monkeypatch):
    first, second = ([True, False, True, False], [True, True, False, False])
    ends = iter([first, second])

    def search(setup, group, rows):
        side = plain._replace(clean_best=torch.tensor(next(ends)))
        return {group.names[0]: Scored(side, rows.x)}

    zeros = torch.zeros(4)
    plain = Side(*[zeros] * 8, zeros.bool(), zeros, None, None, None, None, zeros)
    monkeypatch.setattr(sides, "attack_ood", search)
    setup = SimpleNamespace(plan=lambda name, limits: (None, limits), target_rows=lambda *_: None)
    rows = Rows("near", OOD[:4], {"d": zeros}, range(4))
    found = sides.attack_twice(setup, Group(None, threat("then", after=threat("first")), ["d"]), rows)
    assert found.clean_best.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    "first",
    [match(queries=40), match(queries=40, paired=False), threat(aim="quantile", quantile=0.5, objective=None)],
    ids=["paired", "unpaired", "quantile"],
)
def test_what_comes_first_may_have_targets(first):
    composed = one(Linear(), [threat("then", after=first)])
    alone = one(Linear(), [first])
    assert composed.attacked.auroc < alone.attacked.auroc
    assert composed.attacked.n_id == alone.attacked.n_id  # targets are split off for both


def test_a_patch_that_covers_the_image_is_no_attack():
    patch = {"norm": "patch", "attack": "pgd", "step_size": 0.25}
    report = run(threats=[threat(), threat("whole", eps=4, **patch), threat("part", eps=3, **patch)])
    assert [(s.threat, s.reason) for s in report.skipped] == [("whole", "a patch of 4 x 4 covers an image of 4 x 4")]
    assert [r.threat for r in report.results] == ["t", "part"]


def test_what_comes_first_must_suit_the_detector_too():
    first = threat("first", objective="logits")
    report = run({"plain": brightness, "linear": Linear()}, [threat(), threat("then", after=first)])
    assert [(s.detector, s.threat) for s in report.skipped] == [("plain", "then"), ("linear", "then")]
    assert "no `net` whose logits to follow" in report.skipped[0].reason


def test_inference_mode_is_refused_where_gradients_are_needed():
    with torch.inference_mode(), pytest.raises(ValueError, match=r"got torch.inference_mode\(\). Call it outside."):
        run()
    with torch.inference_mode():
        assert one(threats=[threat(attack="square")]).attacked.auroc < 1


def declaring(**declared):
    score = lambda x: brightness(x)
    for name, what in declared.items():
        setattr(score, name, what)
    return score


def boom(_x):
    raise RuntimeError("boom")


UNSOUND = {
    "fails": (boom, r"got RuntimeError: boom \(test_evaluate.py, line \d+\). Correct it."),
    "tuple": (lambda x: (brightness(x),), "got tuple. Change it."),
    "array": (lambda x: brightness(x).detach().numpy(), "got ndarray. Change it."),
    "one number": (lambda x: x.sum(), r"got shape \(\) for 2 images."),
    "too few rows": (lambda x: brightness(x)[:1], r"got shape \(1,\) for 2 images."),
    "NaN": (lambda x: brightness(x) * torch.nan, "got NaN or infinite ones on ID images. Correct it."),
    "nothing": (0.5, "got float. Drop it, or make it a method."),
}


class Unhashable:
    __hash__ = None

    def __call__(self, x):
        return brightness(x)


@pytest.mark.parametrize(("latent", "words"), UNSOUND.values(), ids=UNSOUND)
def test_a_latent_that_is_none_is_refused_in_one_line_where_it_is_followed(latent, words):
    reaching = words.startswith(("got shape", "got NaN"))
    for limits in (match(), match(attack="lbfgs", step_size=None), *([threat(objective="latent")] if reaching else [])):
        with pytest.raises(ValueError, match=f"`latent` must be a function of images .*, {words}") as caught:
            run(declaring(latent=latent), [limits])
        assert "\n" not in str(caught.value)
    assert one(declaring(latent=latent)).attacked.auroc < 1  # where nothing follows it, nothing is amiss
    report = run(declaring(latent=latent), [threat(), match(name="logits", match="logits")])
    assert [(s.threat, s.reason) for s in report.skipped] == [("logits", "its score is not a function of the logits")]


def test_the_latent_of_a_surrogate_is_looked_over_where_a_blind_search_had_none_to_follow():
    stand_in = Surrogate("stand-in", brightness, latent=lambda x: brightness(x)[:1])
    detector = declaring(latent=lambda x: x.flatten(1), surrogate=stand_in)
    blind = match(name="blind", attack="square", step_size=None)
    with pytest.raises(ValueError, match=r"`latent` must be a function of images .*, got shape \(1,\) for 2 images"):
        run(detector, [blind, match()])
    assert not run(detector, [blind]).skipped


@pytest.mark.parametrize("latent", [[1], Unhashable()])
def test_a_latent_without_a_hash_is_told_as_such(latent):
    with pytest.raises(ValueError, match=r"`latent` must be a function of images .*, got (list|Unhashable)"):
        run(declaring(latent=latent), [match()])


@pytest.mark.parametrize(("stand_in", "words"), UNSOUND.values(), ids=UNSOUND)
def test_a_surrogate_that_is_none_is_refused_in_one_line(stand_in, words):
    with pytest.raises(ValueError, match=f"`surrogate` must have a `score` of images .*, {words}") as caught:
        run(declaring(surrogate=Surrogate("stand-in", stand_in)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_detector_and_images_of_half_precision(dtype):
    class Half(Linear):
        def latent(self, x):
            return super().latent(x.double()).to(dtype)

        def forward(self, x):
            return super().forward(x.double()).to(dtype)

    threats = [
        threat("quantile", aim="quantile", quantile=0.5, objective=None),
        threat("latent", objective="latent", restarts=2),
        match(name="match", attack="lbfgs", step_size=None, queries=40),
        threat("jump", aim="cross", attack="hop-skip-jump", objective=None, init="clean", queries=60),
        threat("elastic", norm="linf", eps=1.0, attack="corruptions", severity=5, queries=20),
    ]
    for kind in (torch.float64, dtype):
        report = run(Half(), threats, id=ID.to(kind), ood=OOD.to(kind))
        assert [r.threat for r in report.results] == [t.name for t in threats]
        moved = {r.threat: r for r in report.results}
        assert moved["latent"].attacked.auroc < moved["latent"].clean.auroc
        assert moved["match"].mape.median < 0.3


def test_a_report_says_how_the_searches_were_cut_not_what_memory_left():
    def fits_three(x):
        if len(x) > 3:
            raise MemoryError
        return brightness(x)

    for size in (8, 2, None):
        expected = size or 256
        assert run(fits_three, batch_size=size).spec.batch_size == expected


def test_looking_a_detector_over_takes_no_more_rows_than_a_batch():
    rows = []

    def score(x):
        rows.append(len(x))
        return brightness(x)

    run(score, batch_size=3)
    assert max(rows) <= 3
