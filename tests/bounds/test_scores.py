"""Bounds of the scores of every detector that has them: at random points and under our own attack, never beaten."""

import copy
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import DOUBLE, images, points, random_net
from torch import nn

import oodattack as oa
from oodattack import detectors
from oodattack.attack import maximise
from oodattack.attacks import ATTACKS
from oodattack.bounds import SCORES, NoBounds, lipschitz_bounds, row_radius, score_bounds
from oodattack.detectors.ccu import fit_ccu
from oodattack.geometry import row_random
from oodattack.objectives import certified_radius
from oodattack.threat import ThreatModel

LABELS = torch.arange(40) % 4


def mixture(net, _x):
    parts = {"energy": detectors.Energy(net), "oe": detectors.OEScore(net)}
    return detectors.WeightedSum(parts, [1.0, -2.0], [0.5, 3.0])


BUILD = {  # name -> (network, images to fit on) -> detector
    "max-logit": lambda net, _: detectors.MaxLogit(net),
    "energy": lambda net, _: detectors.Energy(net, temperature=2.0),
    "jem-px": lambda net, _: detectors.JemPx(net),
    "msp": lambda net, _: detectors.MSP(net),
    "jem-py": lambda net, _: detectors.JemPy(net),
    "confident": lambda net, _: detectors.Confident(net, layer="0"),
    "odin": lambda net, _: detectors.ODIN(net, temperature=10.0, magnitude=0.01),
    "odin-without-step": lambda net, _: detectors.ODIN(net, temperature=1000.0, magnitude=0.0),
    "oe-score": lambda net, _: detectors.OEScore(net),
    "outlier-class": lambda net, _: detectors.OutlierClass(net),
    "mahalanobis": lambda net, x: detectors.fit_mahalanobis(net, x, LABELS),
    "knn": lambda net, x: detectors.fit_knn(net, x, k=3),
    "vim": lambda net, x: detectors.fit_vim(net, x),
    "react": lambda net, x: detectors.fit_react(net, x, percentile_kept=70.0),
    "dice": lambda net, x: detectors.fit_dice(net, x, percentile_dropped=50.0),
    "ccu": lambda net, x: fit_ccu(net, x, seed=0, components=3),
    "sum": mixture,
}


def built(name, net, seed=0):
    return BUILD[name](net, images(40, seed + 100))


def test_the_table_is_covered():
    net = random_net("basic", 0)
    assert {type(built(name, net)) for name in BUILD} == set(SCORES)


def apgd(norm, eps, aim):
    return ThreatModel(
        name="t", norm=norm, eps=eps, aim=aim, objective="score", start="ood", init="ball", attack="apgd",
        queries=15, restarts=1, iterate="best", source="test",
    )  # fmt: skip


def attacked(detector, x, norm, eps, sign):
    """Scores of what Auto-PGD finds, up or down."""
    threat = apgd(norm, eps, "raise" if sign > 0 else "hide")
    stand_in = getattr(detector, "surrogate", None)
    score = stand_in.score if stand_in else detector
    random = row_random(0, "bounds", range(len(x)), x.device, x.dtype)
    attack = ATTACKS["apgd"].build(threat)
    found = maximise(lambda z, _rows: sign * score(z), x, threat, attack, random, keep_clean=True)
    with torch.no_grad():
        return detector(found.x_adv)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", BUILD)
def test_no_score_beats_its_bounds(name, norm):
    detector, x = built(name, random_net("basic", 1)), images(4, 2)
    eps = 0.03 if norm == "linf" else 0.2
    bounds = score_bounds(detector, x, norm=norm, eps=eps)
    assert bounds.lower.isfinite().all()
    tried = points(x, norm, eps, 50, 3)
    with torch.no_grad():
        seen = detector(tried.flatten(0, 1)).view(50, 4)
    assert (seen >= bounds.lower).all() and (seen <= bounds.upper).all()
    assert (attacked(detector, x, norm, eps, 1) <= bounds.upper).all()
    assert (attacked(detector, x, norm, eps, -1) >= bounds.lower).all()


@settings(deadline=None, max_examples=20)
@given(
    name=st.sampled_from(sorted(BUILD)),
    kind=st.sampled_from(["plain", "norms", "basic", "option-a", "max"]),
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.sampled_from([1e-3, 0.03, 0.2, 1.0]),
    deep=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_bounds_of_scores_on_random_networks(name, kind, norm, eps, deep, seed):
    detector, x = built(name, random_net(kind, seed), seed), images(2, seed + 1)
    bounds = score_bounds(detector, x, norm=norm, eps=eps, deep=deep)
    tried = points(x, norm, eps, 30, seed)
    with torch.no_grad():
        seen = detector(tried.flatten(0, 1)).view(30, 2)
    assert (seen >= bounds.lower).all() and (seen <= bounds.upper).all()


@pytest.mark.parametrize("name", BUILD)
def test_bounds_close_in_on_the_score(name):
    detector, x = built(name, random_net("basic", 1)), images(3, 2)
    if getattr(detector, "magnitude", 0):
        pytest.skip("the ball of preprocessed images does not shrink to a point")
    found = [score_bounds(detector, x, norm="linf", eps=eps) for eps in (0.03, 1e-3, 1e-6)]
    widths = torch.stack([b.upper - b.lower for b in found])
    assert (widths[:-1] >= widths[1:]).all()
    assert (widths[-1] <= 1e-3 * (1 + found[0].clean.abs())).all()


def linear():
    """Logits W x + b of two pixels: f = (x_1 + 2 x_2, 3 x_1 - x_2 + 1)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    network[1].weight.data = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    network[1].bias.data = torch.tensor([0.0, 1.0])
    return oa.Classifier(network.double().eval())


def test_a_linear_network_by_hand():
    x = torch.tensor([0.5, 0.25], dtype=DOUBLE).view(1, 1, 1, 2)
    # f = (1, 2.25); linf .1: f_1 +- .3, f_2 +- .4; l2 .1: +- .1 sqrt 5, .1 sqrt 10; max logit is f_2 in both
    for norm, size in (("linf", 0.4), ("l2", 0.1 * 10**0.5)):
        bounds = score_bounds(detectors.MaxLogit(linear()), x, norm=norm, eps=0.1)
        torch.testing.assert_close(bounds.lower, torch.tensor([-2.25 - size], dtype=DOUBLE), rtol=1e-8, atol=0)
        torch.testing.assert_close(bounds.upper, torch.tensor([-2.25 + size], dtype=DOUBLE), rtol=1e-8, atol=0)
    # log-odds of the larger one: f_1 - f_2 = -2 x_1 + 3 x_2 - 1 = -1.25, linf .1: +- .5
    bounds = score_bounds(detectors.MSP(linear()), x, norm="linf", eps=0.1)
    expected = torch.tensor([-1.75, -0.75], dtype=DOUBLE).sigmoid()
    torch.testing.assert_close(torch.cat([bounds.lower, bounds.upper]), expected, rtol=1e-8, atol=0)


def test_the_box_cuts_the_ball():
    x = torch.tensor([1.0, 0.0], dtype=DOUBLE).view(1, 1, 1, 2)
    # x_1 may only fall, x_2 only rise: f_2 = 3 x_1 - x_2 + 1 in [4 - .4, 4] for linf .1, and f_1 <= 1.2
    bounds = score_bounds(detectors.MaxLogit(linear()), x, norm="linf", eps=0.1)
    assert bounds.lower.item() == pytest.approx(-4) and bounds.upper.item() == pytest.approx(-3.6)
    # l2 .1: falls by .1 sqrt 10 along (-3, 1), which the box allows, and rises by nothing
    bounds = score_bounds(detectors.MaxLogit(linear()), x, norm="l2", eps=0.1)
    assert bounds.lower.item() == pytest.approx(-4, abs=1e-6)
    assert bounds.upper.item() == pytest.approx(-4 + 0.1 * 10**0.5)
    free = score_bounds(detectors.MaxLogit(linear()), x, norm="linf", eps=0.1, box=False)
    assert free.lower.item() == pytest.approx(-4.4)


def test_softmax_of_upper_bounds_is_no_bound():
    """Two logits in [0, 1], both with upper bound 1: softmax says 1/2, the truth is e / (1 + e) = .731."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    network[1].weight.data = torch.eye(2)
    net = oa.Classifier(network.double().eval())
    x = torch.full((1, 1, 1, 2), 0.5, dtype=DOUBLE)
    bounds = score_bounds(detectors.MSP(net), x, norm="linf", eps=0.5)
    truth = detectors.MSP(net)(torch.tensor([1.0, 0.0], dtype=DOUBLE).view(1, 1, 1, 2)).item()  # an allowed input
    unsound = 1 - torch.tensor([1.0, 1.0]).softmax(dim=0).max().item()
    assert truth == pytest.approx(1 - 0.7310586)
    assert unsound > truth  # claims that no input is as confident
    assert bounds.lower.item() <= truth and bounds.lower.item() == pytest.approx(truth)


def test_float32_detectors_stay_inside():
    net = copy.deepcopy(random_net("basic", 4)).float()
    x = images(20, 5).float()
    for detector in (detectors.Energy(net), detectors.fit_mahalanobis(net, images(40, 6).float(), LABELS)):
        bounds = score_bounds(detector, x, norm="linf", eps=0.0)
        own = detector(x).detach().double()
        assert (own >= bounds.lower).all() and (own <= bounds.upper).all()
        assert bounds.lower.dtype == DOUBLE and next(detector.parameters()).dtype == torch.float32


def test_ccu_has_bounds_on_any_network():
    """Without bounds of the network the densities alone keep outliers out."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(72, 4)

        def forward(self, x):
            return self.head(torch.tanh(x).flatten(1))

    net = oa.Classifier(Odd().double().eval())
    detector = fit_ccu(net, 0.5 + 0.1 * images(40, 1), seed=0, components=2)
    x = images(3, 2)
    bounds = score_bounds(detector, x, norm="l2", eps=0.1)
    assert bounds.lower.isfinite().all()
    tried = points(x, "l2", 0.1, 40, 3)
    with torch.no_grad():
        seen = detector(tried.flatten(0, 1)).view(40, 3)
    assert (seen >= bounds.lower).all() and (seen <= bounds.upper).all()
    with pytest.raises(NoBounds, match=r"layers with bounds, got tanh \(tanh\): no bounds are known for it"):
        score_bounds(detectors.Energy(net), x, norm="l2", eps=0.1)


LIPSCHITZ = ["MaxLogit", "Energy", "MSP", "OEScore", "OutlierClass"]  # a kind each of `FUNCTIONS`


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", LIPSCHITZ)
def test_the_radius_of_eq_4_with_a_sound_constant(name, norm):
    """No attack within min{eps, |threshold - score| / L} changes a decision, and none climbs faster than L."""
    detector, x = getattr(detectors, name)(random_net("basic", 1)), images(3, 2)
    eps = 0.02 if norm == "linf" else 0.1
    constants = lipschitz_bounds(detector, x, norm=norm, eps=eps)
    with torch.no_grad():
        clean = detector(x)
        seen = detector(points(x, norm, eps, 40, 3).flatten(0, 1)).view(40, 3)
    assert ((seen - clean).abs() <= constants * eps + 1e-9).all()
    threshold = clean.median().item() + 1e-3
    radius = certified_radius(detector, x, threshold=threshold, lipschitz=constants, ball=eps)
    for row in range(len(x)):
        if radius[row] > 0:
            for sign in (1, -1):
                after = attacked(detector, x[row : row + 1], norm, radius[row].item() * (1 - 1e-9), sign)
                assert (after > threshold) == (clean[row] > threshold)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_row_radius_keeps_decisions(norm):
    detector, x = detectors.Energy(random_net("basic", 1)), images(4, 2)
    with torch.no_grad():
        clean = detector(x)
    threshold, most = clean.median().item() + 1e-3, 0.1 if norm == "linf" else 0.5
    radius = row_radius(detector, x, norm=norm, threshold=threshold, most=most, rounds=5)
    assert (radius > 0).any() and (radius <= most).all()
    below = (radius * (1 - 1e-9)).clamp(min=1e-9)
    for row in range(len(x)):
        for sign in (1, -1):
            after = attacked(detector, x[row : row + 1], norm, below[row].item(), sign)
            assert (after > threshold) == (clean[row] > threshold)
    by_slope = certified_radius(
        detector, x, threshold=threshold, lipschitz=lipschitz_bounds(detector, x, norm=norm, eps=most), ball=most
    )
    assert radius.sum() > by_slope.sum()  # linear bounds certify more than slopes


def test_knn_on_features_that_may_turn_by_more_than_a_right_angle():
    # features of either sign, and a bank that lies to one side of them
    torch.manual_seed(6)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 3)).eval()
    with torch.no_grad():
        flat[1].weight.mul_(6)
        flat[1].bias.copy_(-flat[1].weight.sum(1) / 2)
        flat[1].weight[0].mul_(0.03)
        flat[1].bias[0] = 0.5  # never 0: the features keep off the origin
    bank = (torch.rand(1, 1, 2, 2) + 0.05 * torch.randn(40, 1, 2, 2)).clamp(0, 1)
    detector, x = detectors.fit_knn(oa.Classifier(flat), bank, k=5).eval(), torch.rand(32, 1, 2, 2)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4).view(16, 1, 1, 2, 2)
    for eps in (0.1, 0.2, 0.3):
        bounds = score_bounds(detector, x, norm="linf", eps=eps)
        with torch.no_grad():
            seen = detector((x + eps * signs).clamp(0, 1).flatten(0, 1)).view(16, 32)
        assert (seen >= bounds.lower).all() and (seen <= bounds.upper).all()
        assert (bounds.upper < 4).any()


def test_rounding_that_clean_images_do_not_show():
    """Black images meet no weight: their scores are exact, and those of images beside them are not."""
    draw, eps = torch.Generator().manual_seed(0), 8 / 255
    network = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))
    network[1].weight.data = 100 * torch.randn(10, 1024, generator=draw)
    network[1].bias.data = -eps * network[1].weight.data.clamp(min=0).sum(1)  # what the attack adds, it takes away
    detector, x = detectors.MaxLogit(oa.Classifier(network.eval())), torch.zeros(4, 1, 32, 32)
    bounds = score_bounds(detector, x, norm="linf", eps=eps)
    for row in network[1].weight.data:
        moved = (x + eps * row.view(1, 32, 32).sign()).clamp(0, 1)
        with torch.no_grad():
            seen = detector(moved).double()
        assert (seen >= bounds.lower).all() and (seen <= bounds.upper).all()


def test_a_precision_with_a_negative_eigenvalue():
    net, x = random_net("basic", 4), images(6, 5)
    plain = detectors.fit_mahalanobis(net, images(40, 6), LABELS)
    values, vectors = torch.linalg.eigh(plain.gaussians.precision)
    values[0] = -0.3 * values[-1]
    bent = detectors.Mahalanobis(net, plain.gaussians._replace(precision=vectors @ values.diag() @ vectors.mT))
    bounds = score_bounds(bent, x, norm="linf", eps=0.05)
    tried = points(x, "linf", 0.05, 200, 7)
    with torch.no_grad():
        seen = bent(tried.flatten(0, 1)).view(len(tried), len(x))
    assert (seen >= bounds.lower).all() and (seen <= bounds.upper).all()


class ByConvolution(nn.Module):
    """A head that is a 1 x 1 convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(2, 6, 3, stride=2), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return self.head(self.pool(self.conv(x).relu())).flatten(1)


@pytest.mark.parametrize("name", ["react", "dice"])
def test_heads_that_are_convolutions(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = oa.Classifier(ByConvolution().double().eval(), head="head").double()
    detector, x = built(name, net), images(4, 1)
    bounds = score_bounds(detector, x, norm="linf", eps=0.05)
    with torch.no_grad():
        seen = detector(points(x, "linf", 0.05, 100, 2).flatten(0, 1)).view(-1, len(x))
    assert (seen >= bounds.lower).all() and (seen <= bounds.upper).all()


def test_hooks_compute_what_no_rule_knows():
    net = random_net("basic", 1)
    head = net.network.get_submodule(net.head)
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].clamp(max=100),))
    with pytest.raises(NoBounds, match="no hooks to have bounds, got one on"):
        score_bounds(detectors.Energy(net), images(2, 2), norm="linf", eps=0.1)
    handle.remove()
    assert len(score_bounds(detectors.Energy(net), images(2, 2), norm="linf", eps=0.1).lower) == 2


class Locked(nn.Identity):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def test_what_cannot_be_copied_has_no_bounds():
    with pytest.raises(NoBounds, match="`detector` must be one with bounds, got Locked"):
        score_bounds(Locked().eval(), images(2, 2), norm="linf", eps=0.1)
    net = random_net("basic", 1)
    net.network.lock = threading.Lock()
    with pytest.raises(NoBounds, match="`detector` must be one that can be copied, got Energy: TypeError"):
        score_bounds(detectors.Energy(net), images(2, 2), norm="linf", eps=0.1)


def test_bad_questions_are_answered_in_one_line():
    detector, x = detectors.Energy(random_net("basic", 1)), images(2, 2)
    for change, words in (
        ({"norm": "l1"}, "`norm` must be one of linf, l2, got 'l1'"),
        ({"eps": -0.1}, "`eps` must be finite and >= 0"),
        ({"x": 2 * x - 3}, r"`x` must be images in \[0, 1\]"),
        ({"detector": detectors.GradNorm(random_net("basic", 1))}, "`detector` must be one with bounds, got GradNorm"),
        ({"detector": lambda z: z.sum((1, 2, 3))}, "`detector` must be an nn.Module to have bounds"),
        ({"detector": copy.deepcopy(detector).train()}, "`detector` must be in eval mode"),
    ):
        with pytest.raises(ValueError, match=words):
            score_bounds(**{"detector": detector, "x": x, "norm": "linf", "eps": 0.1, **change})
    with pytest.raises(ValueError, match="`detector` must be in eval mode"):
        lipschitz_bounds(copy.deepcopy(detector).train(), x, norm="linf", eps=0.1)
