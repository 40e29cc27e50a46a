"""What once went wrong, or nearly: searches that cannot be, scores that misbehave, verdicts that were too kind."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors import Energy
from oodattack.evaluation import evaluate
from oodattack.evaluation.floors import floors
from oodattack.evaluation.goal import Goal, Objective
from oodattack.evaluation.part import Part
from oodattack.geometry import row_random
from oodattack.threat import Suite, ThreatModel

FIELDS = dict(
    norm="linf", eps=0.1, aim="hide", objective="score", start="ood", init="ball", attack="apgd", queries=40,
    restarts=1, iterate="best", source="test",
)  # fmt: skip
BOX = ThreatModel(name="box", **(FIELDS | {"eps": 1.0, "init": "clean"}))
GENERATOR = torch.Generator().manual_seed(0)
ID = 0.3 + 0.05 * torch.rand(24, 1, 8, 8, generator=GENERATOR, dtype=torch.float64)
OOD = ID[:20] + torch.linspace(0.005, 0.2, 20).double().view(-1, 1, 1, 1)


def threat(name: str = "t", **fields) -> ThreatModel:
    return ThreatModel(**(FIELDS | {"name": name} | fields))


def run(detector, *threats, **options):
    options = {"id": ID, "ood": {"near": OOD}, "seed": 0} | options
    return evaluate(detector, threats=list(threats), **options)


def brightness(x):
    return x.flatten(1).mean(1)


def blind(x):
    return torch.from_numpy(x.detach().numpy().mean((1, 2, 3)))


@pytest.mark.parametrize("levels", [20, 100])
def test_a_gradient_that_is_zero_everywhere_is_as_good_as_none(levels):
    steps = torch.arange(levels) / levels
    counted = lambda x: (brightness(x)[:, None] > steps).double().sum(1) + 0 * brightness(x)
    attached, detached = (run(f, threat(), BOX).results for f in (counted, lambda x: counted(x.detach())))
    assert attached[0].attack.startswith("square")
    assert attached[0].indicators["gradient_trouble"] == "gradient zero on 100% of rows"
    for a, d in zip(attached, detached, strict=True):
        assert (a.attack, a.attacked, a.verdict) == (d.attack, d.attacked, d.verdict)


def test_one_image_with_a_gradient_is_enough_for_a_search_that_follows_it():
    # of these 60 images eight are probed, evenly spaced, and lie on a plateau
    steep = lambda x: (100 * (brightness(x) - 0.6)).clamp(-1, 1)
    far = torch.full((60, 1, 8, 8), 0.9, dtype=torch.float64)
    result, _ = run(steep, threat(eps=0.01), BOX, ood={"near": far}).results
    assert result.attack.startswith("square")
    far[7] = 0.605
    result, _ = run(steep, threat(eps=0.01), BOX, ood={"near": far}).results
    assert result.attack.startswith("apgd")


def test_a_gradient_that_is_zero_on_images_but_not_on_noise_is_followed():
    dark = {"near": ID[:20] + 0.02}  # and noise has a brightness of 0.5
    result, box = run(lambda x: (brightness(x) - 0.4).relu(), threat(), BOX, ood=dark).results
    assert result.attack.startswith("apgd") and box.attack.startswith("apgd")


def network() -> Classifier:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    norm.running_var.uniform_(0.3, 3)
    norm.running_mean.uniform_(-1, 1)
    parts = OrderedDict(
        conv1=nn.Conv2d(1, 8, 3, padding=1), bn1=norm, act=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(2),
        flat=nn.Flatten(), head=nn.Linear(32, 4),
    )  # fmt: skip
    return Classifier(nn.Sequential(parts).eval())


@pytest.mark.parametrize("attack", ["stadv", "recolor"])
def test_a_distortion_that_needs_a_gradient_is_not_replaced_by_the_whole_box(attack):
    limits = threat(attack=attack, eps=1.0, limit=0.01)
    report = run({"blind": blind, "sighted": brightness}, limits)
    assert [r.detector for r in report.results] == ["sighted"]
    assert "needs a gradient" in report.skipped[0].reason


def test_a_weak_search_does_not_hold_beside_a_stronger_one():
    weak = threat("weak", attack="pgd", step_size=0.01, queries=3, init="clean")
    alone, _ = run(brightness, weak, BOX).results
    beside, strong, _ = run(brightness, weak, threat("strong"), BOX).results
    assert alone.attacked.auroc == beside.attacked.auroc > strong.attacked.auroc + 0.05
    assert beside.verdict == "inconclusive"
    assert "another search within the same limits was stronger" in beside.reason


@pytest.mark.parametrize("name", ["ood-aa", "linf-8-255", "flagship"])
def test_luck_does_not_break_a_random_score(name):
    from oodattack.threat import Suite, read_threat

    def tiny(member):
        return member.model_copy(update={"name": f"tiny-{member.name}", "eps": 1e-6})

    shipped = read_threat(name)
    many = isinstance(shipped, Suite)
    own = {"name": "tiny", "members": tuple(map(tiny, shipped.members))} if many else {}
    limits = shipped.model_copy(update=own) if many else tiny(shipped)
    noisy = lambda x: brightness(x) + 0.1 * torch.randn(len(x), dtype=x.dtype)
    result = run(
        noisy, limits, ood={"near": ID[torch.arange(240) % 24] + 0.1 + 1e-6 * torch.rand(240, 1, 8, 8)}
    ).results[0]
    assert abs(result.attacked.auroc - result.clean.auroc) < 0.12  # two draws of the same thing
    assert result.verdict == "inconclusive"


def test_points_at_the_threshold_cross_it_whatever_the_rounding_of_the_search():
    energy = Energy(network())
    x = {"id": ID.float(), "ood": {"near": OOD.float() + 0.1}}
    near = threat(aim="cross", objective=None, attack="fmn", init="clean", eps=1.0, queries=60)
    full, half = (run(energy, near, precision=p, **x).results[0].crossing for p in ("full", "bfloat16"))
    assert full.share == 1
    assert half.share == 1
    assert full.median <= half.median <= 2 * full.median


def test_several_losses_keep_no_history_in_any_batch():
    energy = Energy(network())
    for size in (1, 4, 24):
        report = run(
            energy,
            threat(objective="class-logits", restarts=2),
            id=ID.float(),
            ood={"near": OOD.float()},
            batch_size=size,
        )
        assert report.results


def test_a_latent_without_a_gradient_gives_way_to_the_features():
    class Sealed(Energy):
        def __init__(self, net):
            super().__init__(net)
            self.latent = lambda x: net.logits(x).detach()

    x = {"id": ID.float(), "ood": {"near": OOD.float()}}
    result = run(Sealed(network()), threat(objective="latent"), **x).results[0]
    assert result.attacked.auroc <= result.clean.auroc
    sealed = lambda z: brightness(z)
    sealed.latent = lambda z: z.flatten(1).detach()
    report = run({"sealed": sealed, "plain": Energy(network())}, threat(objective="latent"), **x)
    assert [s.reason for s in report.skipped] == ["neither detector nor network gives a latent with a gradient"]


@pytest.mark.parametrize(
    ("norm", "eps", "attack"),
    [("linf", 0.1, "square"), ("l2", 1.0, "square"), ("l1", 5.0, "square"), ("patch", 4, "spsa")],
)
def test_a_blind_search_is_the_best_that_knows_the_norm(norm, eps, attack):
    (result,) = run(blind, threat(norm=norm, eps=eps, queries=100)).results
    assert result.attack.startswith(f"{attack}, 100 queries")
    assert result.attacked.auroc < result.clean.auroc


def test_a_decision_only_search_begins_with_an_id_image():
    dark = lambda x: torch.from_numpy(x.detach().numpy().max((1, 2, 3)))  # no noise is accepted
    x_id = ID.clone()
    x_id[:, 0, 0, 0] = 0.1
    (result,) = run(
        dark, threat(norm="l2", eps=5.0, aim="cross", objective=None, attack="ddn", queries=60), id=x_id
    ).results
    assert result.attack.startswith("hop-skip-jump")
    assert result.crossing.share == 1.0


def test_draws_are_averaged_for_the_judge_as_well():
    calls = {"loss": 0, "judge": 0}

    def counted(name):
        def score(z, _rows):
            calls[name] += len(z)
            return brightness(z)

        return score

    limits = threat(objective="logits", queries=200, draws=10)
    asked = Objective([counted("loss")], None, counted("judge"))
    random = row_random(0, "test", range(4), "cpu", torch.float32)
    part = Part(asked, limits, Goal(sign=-1), OOD[:4], random, "full", lambda _: None)
    found = part.follow(0, limits, torch.arange(4))
    assert sum(calls.values()) == found.queries.sum() <= 4 * 200
    assert calls["judge"] >= 4 * 30  # one query in six, ten calls each


def test_what_comes_first_is_blinded_too():
    result = run(blind, threat("then", eps=0.02, after=threat("first"))).results[0]
    assert result.attacked.auroc < result.clean.auroc


@pytest.mark.parametrize(
    ("attack", "norm"), [("ddn", "linf"), ("rays", "l2"), ("hop-skip-jump", "l1"), ("square", "patch"), ("stadv", "l2")]
)
def test_norms_that_an_attack_does_not_know_are_refused_at_once(attack, norm):
    crossing = dict(aim="cross", objective=None) if attack in ("ddn", "rays", "hop-skip-jump") else {}
    with pytest.raises(ValueError, match=f"`norm` must be .* for {attack}, got '{norm}'"):
        threat(attack=attack, norm=norm, eps=1, limit=0.1 if attack == "stadv" else None, **crossing)


def test_infinite_scores_of_attacked_images_are_counted_and_undone():
    cliff = lambda x: brightness(x).where(brightness(x) > 0.36, -float("inf"))
    id_ = ID + 0.05
    result = run(cliff, threat(), id=id_, ood={"near": OOD + 0.1}).results[0]
    assert result.indicators["non_finite_share"] > 0
    assert 0 <= result.attacked.auroc <= 1


def test_confirmations_are_part_of_the_budget():
    class Soft(nn.Module):
        surrogate = Surrogate("never passes", lambda x: brightness(x) - 10 * brightness(x).detach() + 0 * brightness(x))

        def forward(self, x):
            return brightness(x).round(decimals=2)

    result = run(Soft().eval(), threat(queries=40)).results[0]
    assert result.queries <= 40


def test_a_suite_of_several_limits_is_no_rival_of_one_of_them():
    affine = threat("affine", eps=1.0, init="clean", attack="affine", limit=1.0, queries=100)
    colour = threat("colour", eps=1.0, init="clean", attack="colour", limit=0.1, queries=100)
    left = {affine: 0.9, colour: 0.95, BOX: 0.1}
    mixed = Suite(name="mixed", members=(affine, colour, BOX), source="test")
    assert floors(affine, left, {mixed: 0.1}).rival is None
    alike = Suite(name="alike", members=(affine, affine.model_copy(update={"name": "again"})), source="test")
    assert floors(affine, left, {alike: 0.7}).rival == 0.7
