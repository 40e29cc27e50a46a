"""Minimum-norm and decision-only attacks, against thresholds whose nearest point is known in closed form."""

import pytest
import torch
from torch import Tensor

from oodattack.attack import Seen, maximise
from oodattack.attacks.ddn import ddn
from oodattack.attacks.fmn import fmn, linear_gap
from oodattack.attacks.hop_skip_jump import ESTIMATE, hop_skip_jump
from oodattack.attacks.rays import rays
from oodattack.geometry import norm_of, row_random
from oodattack.threat import ThreatModel

ATTACKS = {"fmn": fmn(), "ddn": ddn(), "rays": rays(), "hop-skip-jump": hop_skip_jump(samples=50)}
DECISION_ONLY = [("rays", "linf", 800), ("hop-skip-jump", "l2", 1000), ("hop-skip-jump", "linf", 1000)]
# (name, norm, queries, how far above the smallest distance it may end)
REACH = [
    ("fmn", "linf", 100, 0.02),
    ("fmn", "l2", 100, 0.02),
    ("fmn", "l1", 100, 0.02),
    ("ddn", "l2", 100, 0.02),
    ("rays", "linf", 800, 0.10),
    ("hop-skip-jump", "l2", 1000, 0.15),
    ("hop-skip-jump", "linf", 1000, 0.15),
]
LIMIT = {"linf": 1.0, "l2": 10.0, "l1": 100.0}
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
SHAPE = (1, 4, 4)
WEIGHT = torch.randn(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def plane(z: Tensor) -> Tensor:
    return (WEIGHT.to(z.dtype) * z).flatten(1).sum(1)


def run(name: str, norm: str, x: Tensor, value, queries: int, rows=None, **changes):
    """Found and distances; `value` (z, rows) is >= 0 beyond the threshold."""
    fields = dict(
        name="t", norm=norm, eps=LIMIT[norm], aim="cross", start="ood", init="clean", attack=name,
        queries=queries, restarts=1, iterate="best", source="test",
    )  # fmt: skip
    random = row_random(0, "test", rows if rows is not None else range(len(x)), "cpu", x.dtype)
    threat = ThreatModel(**(fields | changes))
    found = maximise(value, x, threat, ATTACKS[name], random, keep_clean=True, crossing=True)
    return found, norm_of(found.x_adv - x, norm)


@pytest.mark.parametrize(("name", "norm", "queries", "slack"), REACH)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nearest_point_of_a_plane(name, norm, queries, slack, dtype):
    # the nearest z with <w, z> >= <w, x> + c is c / ||w||_dual away; c is chosen so that this is 0.05, 0.1, 0.2
    x = torch.full((3, *SHAPE), 0.5, dtype=dtype)
    wanted = torch.tensor([0.05, 0.1, 0.2], dtype=dtype)
    gap = wanted * norm_of(WEIGHT, DUAL[norm]).to(dtype)
    found, distance = run(name, norm, x, lambda z, rows: plane(z) - plane(x)[rows] - gap[rows], queries)
    assert (found.value >= 0).all() and found.x_adv.dtype == dtype
    assert (distance >= wanted * (1 - 1e-5)).all()
    assert (distance <= wanted * (1 + slack)).all()


@pytest.mark.parametrize(("name", "norm", "queries", "slack"), REACH)
def test_nearest_point_where_the_box_blocks_pixels(name, norm, queries, slack):
    # the pixel that matters most stands at the wall that it should move to: only the others count for the dual norm
    heaviest = WEIGHT.abs() == WEIGHT.abs().max()
    free = WEIGHT.masked_fill(heaviest, 0)
    x = torch.where(heaviest, (WEIGHT > 0).double(), 0.5)
    gap = 0.05 * norm_of(free, DUAL[norm])
    _, distance = run(name, norm, x, lambda z, _rows: plane(z) - plane(x) - gap, queries)
    assert 0.05 * (1 - 1e-9) <= distance.item() <= 0.05 * (1 + slack)


@pytest.mark.parametrize(("name", "norm", "queries", "slack"), REACH)
def test_nearest_point_of_a_bowl(name, norm, queries, slack):
    # a disc of radius 0.2 around (0.7, 0.6), seen from (0.3, 0.3), 0.5 away: l2 distance 0.5 - 0.2 = 0.3.
    # linf: (0.3 + t - 0.7)^2 + (0.3 + t - 0.6)^2 = 0.04, t = (0.7 - sqrt(0.07)) / 2; l1: go to (0.5, 0.6) or (0.7, 0.4)
    # or along the diagonal tangent, t / 2 each: |0.7 - t| / sqrt(2) = 0.2, t = 0.7 - 0.2 sqrt(2), the shortest
    centre = torch.tensor([0.7, 0.6], dtype=torch.float64).view(1, 1, 1, 2)
    x = torch.full((1, 1, 1, 2), 0.3, dtype=torch.float64)
    wanted = {"l2": 0.3, "linf": (0.7 - 0.07**0.5) / 2, "l1": 0.7 - 0.2 * 2**0.5}[norm]
    bowl = lambda z, _rows: 0.04 - (z - centre).square().flatten(1).sum(1)
    _, distance = run(name, norm, x, bowl, queries)
    assert wanted * (1 - 1e-9) <= distance.item() <= wanted * (1 + slack)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_distance_to_the_threshold_of_a_linear_loss(norm):
    # w = (3, -4): dual norms 7, 5 and 4
    grad = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    gap = linear_gap(Seen(grad, torch.tensor([-2.0, -2.0]), grad), grad, norm)
    assert gap.tolist() == pytest.approx([2 / {"linf": 7, "l2": 5, "l1": 4}[norm], torch.inf])


@pytest.mark.parametrize(("name", "norm"), [("fmn", "linf"), ("fmn", "l2"), ("ddn", "l2")])
def test_a_first_point_that_crosses_is_brought_nearer(name, norm):
    x = torch.rand(8, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    gap = 0.02 * norm_of(WEIGHT, DUAL[norm])
    found, distance = run(name, norm, x, lambda z, rows: plane(z) - plane(x)[rows] - gap, 300, init="ball", eps=0.5)
    assert (found.value >= 0).all() and (distance < 0.05).all()


@pytest.mark.parametrize(("name", "norm"), [row[:2] for row in REACH])
def test_rows_do_not_influence_one_another(name, norm):
    x = torch.rand(4, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    curved = lambda z, _rows: plane(z) + (5 * z).sin().flatten(1).sum(1) - 10
    together, _ = run(name, norm, x, curved, 150)
    for row in range(4):
        alone, _ = run(name, norm, x[row : row + 1], curved, 150, rows=[row])
        assert torch.allclose(alone.x_adv[0], together.x_adv[row])


@pytest.mark.parametrize(("name", "norm"), [row[:2] for row in REACH])
def test_rows_that_cross_already_stay_where_they_are(name, norm):
    x = torch.full((2, *SHAPE), 0.5, dtype=torch.float64)
    gap = torch.tensor([0.0, 0.1 * norm_of(WEIGHT, DUAL[norm]).item()], dtype=torch.float64)
    found, distance = run(name, norm, x, lambda z, rows: plane(z) - plane(x)[rows] - gap[rows], 200)
    assert distance[0] == 0 and found.clean_best.tolist() == [True, False]
    assert 0.1 * (1 - 1e-9) <= distance[1] < 0.2


@pytest.mark.parametrize(("name", "norm"), [row[:2] for row in REACH])
@pytest.mark.parametrize("slope", [1e-3, 0.0])
def test_rows_that_never_cross_stay_finite_and_inside(name, norm, slope):
    x = torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found, distance = run(name, norm, x, lambda z, _rows: slope * plane(z) - 1, 60, eps=0.5)
    assert found.x_adv.isfinite().all() and (distance <= 0.5 + 1e-9).all()
    assert (found.value < 0).all() and (found.queries == 60).all()
    assert (found.value >= slope * plane(x) - 1).all()


@pytest.mark.parametrize(("name", "norm", "queries"), DECISION_ONLY)
def test_decision_only_attacks_see_nothing_but_the_sign(name, norm, queries):
    assert not ATTACKS[name].white_box
    x = torch.rand(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    value = lambda z, _rows: plane(z) - plane(x).max() - 0.2
    sign = lambda z, rows: 2.0 * (value(z, rows) >= 0).to(z) - 1
    found, told = [run(name, norm, x, f, queries // 4) for f in (value, sign)]
    assert (found[0].value >= 0).all()
    assert torch.equal(found[0].x_adv, told[0].x_adv)


def test_more_queries_bring_a_decision_only_attack_closer():
    x = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    gap = 0.1 * norm_of(WEIGHT, "l1")
    for name, norm, queries in DECISION_ONLY:
        few, many = [
            run(name, norm, x, lambda z, _rows: plane(z - x) - gap, n)[1] for n in (queries // 16, queries // 4)
        ]
        assert many < 0.9 * few


def test_a_norm_that_an_attack_does_not_know_is_named():
    x = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    for name, norm, message in (
        ("ddn", "linf", "`norm` must be l2 for ddn, got 'linf'. Take fmn"),
        ("rays", "l2", "`norm` must be linf for rays, got 'l2'. Take hop-skip-jump"),
        ("hop-skip-jump", "l1", "`norm` must be linf or l2 for hop-skip-jump, got 'l1'. Take fmn"),
    ):
        threat = ThreatModel.model_construct(norm=norm, eps=0.5, init="clean")
        with pytest.raises(ValueError, match=message):
            ATTACKS[name].start(x, threat, row_random(0, "t", [0], "cpu", x.dtype), 10)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fmn(step_size=0), "`step_size` is a share of the radius and must be in"),
        (lambda: fmn(gamma=1), "`gamma` must be in"),
        (lambda: ddn(radius=0), "`radius` must be > 0, got 0"),
        (lambda: ddn(gamma=0), "`gamma` must be in"),
        (lambda: rays(tolerance=1), "`tolerance` must be in"),
        (lambda: hop_skip_jump(samples=1), "`samples` must be >= 2, got 1"),
    ],
)
def test_hyper_parameters_out_of_range_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(("gap", "queries", "slack"), [(0.5, 50, 0.06), (2.0, 50, 0.06), (2.0, 200, 0.03)])
def test_fmn_in_l1_gets_past_pixels_that_stand_at_a_wall(gap, queries, slack):
    # black ground: most of what w asks for is shut off; pixel by pixel, steepest first, is the shortest way
    draw = torch.Generator().manual_seed(0)
    shape = (2, 1, 8, 8)
    lit = torch.rand(shape, generator=draw, dtype=torch.float64) < 0.4
    x = torch.rand(shape, generator=draw, dtype=torch.float64) * lit
    w = torch.randn(shape[1:], generator=draw, dtype=torch.float64)
    w = w / w.norm()
    room = torch.where(w > 0, 1 - x, x).flatten(1)
    order = w.abs().flatten().argsort(descending=True)
    gains = (room * w.abs().flatten())[:, order].cumsum(1)
    places = (gains < gap).sum(1, keepdim=True)
    before = gains.gather(1, places) - (room * w.abs().flatten())[:, order].gather(1, places)
    spent = room[:, order].cumsum(1).gather(1, places) - room[:, order].gather(1, places)
    wanted = (spent + (gap - before) / w.abs().flatten()[order][places]).flatten()
    base = (w * x).flatten(1).sum(1)
    found, distance = run("fmn", "l1", x, lambda z, rows: (w * z).flatten(1).sum(1) - base[rows] - gap, queries)
    assert (found.value >= 0).all()
    assert (distance >= wanted * (1 - 1e-9)).all()
    assert (distance <= wanted * (1 + slack)).all()


def test_hop_skip_jump_begins_with_images_where_no_noise_is_accepted():
    # accepted are pictures that are dark all over, which uniform noise never is
    draw = torch.Generator().manual_seed(0)
    x, dark = (0.6 + 0.2 * torch.rand(3, 1, 8, 8, generator=draw), 0.2 * torch.rand(5, 1, 8, 8, generator=draw))
    value = lambda z, _rows: 0.3 - z.flatten(1).amax(1)
    threat = ThreatModel(
        name="t", norm="l2", eps=10.0, aim="cross", start="ood", init="clean", attack="hop-skip-jump", queries=300,
        restarts=1, iterate="best", source="test",
    )  # fmt: skip
    found = {}
    for name, images in (("noise", None), ("images", dark)):
        random = row_random(0, "test", range(3), "cpu", x.dtype)
        found[name] = maximise(value, x, threat, hop_skip_jump(images=images), random, keep_clean=True, crossing=True)
    assert (found["noise"].value < 0).all()
    assert (found["images"].value >= 0).all()
    distance = norm_of(found["images"].x_adv - x, "l2")
    assert (distance < torch.cdist(x.flatten(1), dark.flatten(1)).amin(1)).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_hop_skip_jump_is_not_lost_in_the_roundings_of_a_large_image(norm):
    # D^(-3/2) of the way is 5e-8, less than a rounding of float32; a probe moves a pixel by 0.05 of that
    shape = (1, 3, 160, 160)
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = w / w.norm()
    x = torch.full(shape, 0.5)
    attack = hop_skip_jump(images=x + 0.1 * w.to(x))
    probes = []

    def step(*seen):
        point, state = attack.step(*seen)
        probes.extend((point != state.edge)[state.phase == ESTIMATE])
        return point, state

    threat = ThreatModel(
        name="t", norm=norm, eps=1.0, aim="cross", start="ood", init="clean", attack="hop-skip-jump", queries=60,
        restarts=1, iterate="best", source="test",
    )  # fmt: skip
    beyond = lambda z, _rows: (w * (z - x)).flatten(1).sum(1) - 0.05
    random = row_random(0, "test", [0], "cpu", x.dtype)
    maximise(beyond, x, threat, attack._replace(step=step), random, keep_clean=True, crossing=True)
    assert len(probes) > 20  # the bisection took the rest
    assert all(moved.double().mean() > 0.9 for moved in probes)  # most pixels of a probe are elsewhere
