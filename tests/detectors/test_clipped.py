"""GradNorm, ReAct, DICE, LINe and RankFeat by hand, and attacks that go around what they cut off."""

from collections import OrderedDict
from functools import cache
from math import exp, log

import pytest
import torch
from torch import nn

from oodattack.attack import maximise
from oodattack.attacks import ATTACKS
from oodattack.classifier import Classifier
from oodattack.detectors.dice import DICE, fit_dice
from oodattack.detectors.energy import energy
from oodattack.detectors.gradnorm import GradNorm, confidence_gap, gap_log_odds, gradnorm
from oodattack.detectors.line import LINe, fit_line
from oodattack.detectors.rankfeat import RankFeat, without_rank_one
from oodattack.detectors.react import SLOPE, ReAct, clipped, fit_react
from oodattack.geometry import row_random
from oodattack.metrics import rank_correlation
from oodattack.models.small import SmallResNet
from oodattack.threat import ThreatModel


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def pixels(*rows):
    """Images of one pixel with as many channels as a row has numbers."""
    return double(*rows)[:, :, None, None]


def chain(weight, bias=None, **modules):
    """A float64 classifier: the named modules, then a linear head. Without modules features are the pixels."""
    head = nn.Linear(len(weight[0]), len(weight))
    head.weight.data = torch.tensor(weight)
    head.bias.data = torch.zeros(len(weight)) if bias is None else torch.tensor(bias)
    return Classifier(nn.Sequential(OrderedDict(**modules, flat=nn.Flatten(), head=head)).double().eval())


class Normalised(nn.Module):
    """Features / ||features||_1."""

    def forward(self, x):
        return nn.functional.normalize(x, p=1, dim=1)


class Scaled(nn.Module):
    """Divides logits by 10."""

    def forward(self, x):
        return x / 10


@cache
def small():
    torch.manual_seed(0)
    network = SmallResNet(1, 3, width=4).double()
    nn.init.normal_(network.head.weight)
    return Classifier(network.eval())


def images(rows, seed=1):
    """Noise of varied brightness."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(rows, 1, 1, 1, generator=generator, dtype=torch.float64)
    return level * torch.rand(rows, 1, 32, 32, generator=generator, dtype=torch.float64)


def labels(rows):
    return torch.arange(rows) % 3


BUILD = {
    "gradnorm": lambda **_: GradNorm(small()),
    "react": lambda **options: fit_react(small(), images(60), **options),
    "dice": lambda **options: fit_dice(small(), images(60), **options),
    "line": lambda **options: fit_line(small(), images(60), labels(60), clip=0.01, **options),
    "rankfeat": lambda **_: RankFeat(small(), layers=["layer2", "layer3"]),
}
EVERY = pytest.mark.parametrize("name", BUILD)


def attacked(f, x, *, aim, eps, queries=30):
    """The inputs to which APGD comes that raises (or hides) `f`."""
    sign = 1 if aim == "raise" else -1
    threat = ThreatModel(
        name="t", norm="linf", eps=eps, aim=aim, objective="score", start="ood", init="clean", attack="apgd",
        queries=queries, restarts=1, iterate="best", source="test",
    )  # fmt: skip
    random = row_random(0, "test", range(len(x)), "cpu", x.dtype)
    return maximise(
        lambda z, _rows: sign * f(z), x, threat, ATTACKS["apgd"].build(threat), random, keep_clean=True
    ).x_adv


def reached(detector, x, **options):
    """How far attacks on the score and on its surrogate move the score, up for "raise"."""
    sign = 1 if options["aim"] == "raise" else -1
    with torch.no_grad():
        moved = [detector(attacked(f, x, **options)) - detector(x) for f in (detector, detector.surrogate.score)]
    return [sign * m for m in moved]


def test_gradnorm_by_hand():
    # features (0.5, 0.25), logits (log 3, 0): p = (3/4, 1/4), ||p - 1/2||_1 = 1/2, ||h||_1 = 3/4
    net = chain([[2 * log(3), 0.0], [0.0, 0.0]])
    assert GradNorm(net)(pixels([0.5, 0.25])).item() == pytest.approx(-0.375)


def test_gradnorm_is_the_length_of_the_gradient():
    torch.manual_seed(0)
    h, weight = torch.randn(5, 4).double(), torch.randn(3, 4).double().requires_grad_()
    for row, score in zip(h, gradnorm(h, h @ weight.detach().T), strict=True):
        loss = -(row @ weight.T).log_softmax(dim=0).mean()  # cross-entropy from the uniform distribution
        (gradient,) = torch.autograd.grad(loss, weight)
        assert -score.item() == pytest.approx(gradient.abs().sum().item(), rel=1e-12)


def test_gap_log_odds_is_what_it_says_and_does_not_saturate():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    gap, most = confidence_gap(logits), 2 - 2 / 5
    torch.testing.assert_close(gap_log_odds(logits), (gap / (most - gap)).log())
    # for one confident class: log(p - 1/K) - log(sum of the others), both logits 300 ahead: log(1/2) + 300
    far = torch.tensor([[300.0, 0.0], [200.0, 0.0]]).requires_grad_()
    assert gap_log_odds(far).tolist() == pytest.approx([300 - log(2), 200 - log(2)])
    (gradient,) = torch.autograd.grad(gap_log_odds(far).sum(), far)
    assert gradient.abs().min() > 0.9
    assert torch.autograd.grad(confidence_gap(far).sum(), far)[0].abs().max() < 1e-30
    flat = torch.zeros(1, 3, requires_grad=True)
    assert gap_log_odds(flat).isfinite().all()
    assert torch.autograd.grad(gap_log_odds(flat).sum(), flat)[0].isfinite().all()


def test_react_by_hand():
    # features (0.9, 0.3) clipped at 0.5: (0.5, 0.3), logits (0.5, 0.6 - 1)
    detector, x = ReAct(chain([[1.0, 0.0], [0.0, 2.0]], [0.0, -1.0]), clip=0.5), pixels([0.9, 0.3])
    torch.testing.assert_close(detector.latent(x), double([0.5, -0.4]))
    assert detector(x).item() == pytest.approx(-log(exp(0.5) + exp(-0.4)))


def test_react_clips_at_the_percentile_of_all_features():
    # ten features 0.1, 0.2, ..., 1.0: the 90th percentile is at 0.9 * 9 = 8.1, between 0.9 and 1.0
    x = (torch.arange(1, 11).double() / 10).view(5, 2, 1, 1)
    assert fit_react(chain([[1.0, 0.0], [0.0, 2.0]]), x, batch_size=2).clip == pytest.approx(0.91)


def test_clipped_keeps_values_and_lends_a_slope():
    h = double([0.2, 0.4, 0.9]).requires_grad_()
    assert torch.equal(clipped(h, 0.5, slope=0.1), h.detach().clamp(max=0.5))
    (hard,) = torch.autograd.grad(clipped(h, 0.5).sum(), h)
    (soft,) = torch.autograd.grad(clipped(h, 0.5, slope=0.1).sum(), h)
    assert hard.tolist() == [[1, 1, 0]]
    torch.testing.assert_close(soft, double([1, 1, 0.1]))


def test_dice_by_hand():
    # mean features (0.5, 0.25), V = [[0.5, 0.5], [1.5, -0.25]], median 0.5: only the weight 3 is above it
    net = chain([[1.0, 2.0], [3.0, -1.0]], [0.25, -0.5])
    detector = fit_dice(net, pixels([0.8, 0.5], [0.2, 0.0]), percentile_dropped=50.0, batch_size=1)
    assert detector.mask.tolist() == [[False, False], [True, False]]
    # (1, 1): logits (0.25, 3 - 0.5)
    assert detector(pixels([1, 1])).item() == pytest.approx(-log(exp(0.25) + exp(2.5)))


def by_hand():
    """LINe on three features: class means (0.5, 0, 0.5) and (0, 1, 1)."""
    net = chain([[4.0, -2.0, 1.0], [-4.0, 2.0, 3.0]])
    x = pixels([1, 0, 0.5], [0, 1, 1], [0, 0, 0.5])
    percentiles = {"neuron_percentile": 50.0, "weight_percentile": 50.0}
    return fit_line(net, x, torch.tensor([0, 1, 0]), **percentiles, clip=0.5, batch_size=2)


def test_line_is_fitted_by_hand():
    # s = W * means. Medians of its rows: 0.5, 2. |s_0| W = [[8, 0, 0.5], [-8, 0, 1.5]], median (0 + 0.5) / 2;
    # |s_1| W = [[0, -4, 3], [0, 4, 9]], median (0 + 3) / 2
    detector = by_hand()
    torch.testing.assert_close(detector.contributions, double([2, 0, 0.5], [0, 2, 3]))
    torch.testing.assert_close(detector.neuron_edges, double(0.5, 2))
    torch.testing.assert_close(detector.weight_edges, double(0.25, 1.5))


def test_line_by_hand():
    # (0.9, 0.1, 0.2) -> (0.5, 0.1, 0.2), logits (2, -1.2), class 0: neuron 0 alone, of its weights 4 alone: (2, 0)
    # (0, 1, 0.4) -> (0, 0.5, 0.4), logits (-0.6, 2.2), class 1: neuron 2 alone, weights 1 and 3: (0.4, 1.2)
    # (0.5, 1, 1): logits (1, 3), but clipped to (0.5, 0.5, 0.5) they are (1.5, 0.5): class 0, (2, 0)
    detector, x = by_hand(), pixels([0.9, 0.1, 0.2], [0, 1, 0.4], [0.5, 1, 1])
    torch.testing.assert_close(detector.latent(x), double([2, 0], [0.4, 1.2], [2, 0]))
    torch.testing.assert_close(detector(x), -double([2, 0], [0.4, 1.2], [2, 0]).logsumexp(dim=1))


def test_scores_of_lines_classes_by_hand():
    # class 0 keeps neuron 0 and its weight 4, class 1 neuron 2 and its weight 3; features end at 0.5
    detector, x = by_hand(), pixels([0.9, 0.1, 0.2], [0, 1, 0.4], [0.5, 1, 1]).requires_grad_()
    scores = detector.class_scores(x)
    torch.testing.assert_close(scores, double([2, 0.6], [0, 1.2], [2, 1.5]))
    (slope,) = torch.autograd.grad(scores[0, 0], x)
    assert slope.flatten(1)[0, 0] > 0  # above the clip too


def test_weights_of_line_are_kept_by_the_size_of_a_contribution_and_neurons_by_its_sign():
    # class 0 of (0.1, 0.5): logits (1.1, -0.2). |(-2, 1)| W = [[2, 2], [6, -1]] > 1.5 keeps all but -1: (1.1, 0.3)
    net, x, edges = chain([[1.0, 2.0], [3.0, -1.0]]), pixels([0.1, 0.5]), double(1.5, 0)
    s = double([-2, 1], [0, 0])
    torch.testing.assert_close(LINe(net, s, double(-5, 0), edges, clip=1.0).latent(x), double([1.1, 0.3]))
    # neurons above -1.5: the second one alone
    torch.testing.assert_close(LINe(net, s, double(-1.5, 0), edges, clip=1.0).latent(x), double([1.0, 0]))


def test_rankfeat_by_hand():
    # channels by positions: diag(0.8, 0.4) loses 0.8; logits (10 * 0.8, 5 * 0.4) become (0, 2)
    net = chain([[10.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 5.0]], layer1=nn.Identity())
    x = double([0.8, 0], [0, 0.4]).view(1, 2, 1, 2)
    detector = RankFeat(net, layers=["layer1"])
    torch.testing.assert_close(detector.latent(x), double([0, 2]))
    assert detector(x).item() == pytest.approx(-log(1 + exp(2)))
    # two layers: the mean of their logits; the second one puts out twice as much, so (8, 4) becomes (0, 4)
    double_it = nn.Conv2d(2, 2, 1, bias=False)
    double_it.weight.data = 2 * torch.eye(2).view(2, 2, 1, 1)
    weight = [[10.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 5.0]]
    both = RankFeat(chain(weight, layer1=double_it, layer2=nn.ReLU()), layers=["layer1", "layer2"])
    torch.testing.assert_close(both.latent(x), double([0, 4]))


@pytest.mark.parametrize("shape", [(3, 7, 2, 2), (3, 4, 3, 5)])
def test_without_rank_one_is_the_singular_value_decomposition(shape):
    h = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, v = torch.linalg.svd(h.flatten(2), full_matrices=False)
    wanted = (u[:, :, 1:] * s[:, None, 1:]) @ v[:, 1:]
    torch.testing.assert_close(without_rank_one(h, exact=True).flatten(2), wanted)


def test_derivative_without_rank_one():
    # far from ties it is that of the SVD, by differences; at ties and for dead maps, where that is infinite, finite
    h = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    for exact in (True, False):
        assert torch.autograd.gradcheck(lambda z, e=exact: without_rank_one(z, exact=e), h)
        tied = torch.stack([torch.zeros(3, 4), torch.eye(4)[:3]]).double().view(2, 3, 2, 2).requires_grad_()
        (gradient,) = torch.autograd.grad((without_rank_one(tied, exact=exact) * h.detach()).sum(), tied)
        assert gradient.isfinite().all()


def test_rankfeat_takes_the_last_stage_and_can_do_without_a_surrogate():
    assert RankFeat(small()).layers == ["layer3"]
    assert RankFeat(small(), fast=False).surrogate is None


OPPOSED = ([[4.0, -4.0], [-4.0, 4.0]], None)
CONFIDENT, UNDECIDED = pixels([1, 0]), pixels([0.5, 0.5])
SIGNS = {
    "gradnorm": (lambda: GradNorm(chain(*OPPOSED)), CONFIDENT, UNDECIDED),
    "react": (lambda: ReAct(chain(*OPPOSED), clip=0.8), CONFIDENT, UNDECIDED),
    "dice": (lambda: DICE(chain(*OPPOSED), torch.eye(2)), CONFIDENT, pixels([0.1, 0.1])),
    "line": (by_hand, pixels([0.5, 0, 0]), pixels([0.1, 0, 0])),
    "rankfeat": (  # of a map of rank one nothing is left
        lambda: RankFeat(chain([[5.0, 0, 0, 5.0], [0.0, 0, 0, 0]], layer1=nn.Identity()), layers=["layer1"]),
        double([0.9, 0], [0, 0.9]).view(1, 2, 1, 2),
        torch.full((1, 2, 1, 2), 0.9, dtype=torch.float64),
    ),
}


@pytest.mark.parametrize("name", SIGNS)
def test_higher_means_more_ood(name):
    build, known, strange = SIGNS[name]
    assert build()(strange).item() > build()(known).item() + 0.1


@EVERY
def test_rows_do_not_influence_one_another(name):
    detector, x = BUILD[name](), images(6, seed=2)
    stand_in = getattr(detector, "surrogate", None)
    for f in (detector, detector.latent, *([stand_in.score] if stand_in else [])):
        with torch.no_grad():
            torch.testing.assert_close(torch.cat([f(row[None]) for row in x]), f(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["react", "dice", "line"])
def test_batches_of_the_fit_do_not_matter(name):
    x = images(6, seed=2)
    torch.testing.assert_close(BUILD[name](batch_size=7)(x), BUILD[name](batch_size=60)(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["gradnorm", "react", "line"])
def test_surrogates_have_the_values_of_the_score_and_another_gradient(name):
    detector, x = BUILD[name](), images(20, seed=3).requires_grad_()
    assert detector.surrogate.exact
    assert torch.equal(detector.surrogate.score(x), detector(x))
    if detector.surrogate.latent:
        assert torch.equal(detector.surrogate.latent(x), detector.latent(x))
    hard, soft = (torch.autograd.grad(f(x).sum(), x)[0] for f in (detector, detector.surrogate.score))
    assert soft.isfinite().all() and not torch.allclose(hard, soft)


def test_surrogate_of_rankfeat_orders_inputs_like_the_score():
    detector, x = BUILD["rankfeat"](), images(60, seed=3)
    with torch.no_grad():
        assert rank_correlation(detector.surrogate.score(x), detector(x)) > 0.999
    assert not detector.surrogate.exact


def test_react_with_all_features_above_the_clip_is_attacked_through_the_surrogate():
    # to raise -logsumexp both features must fall below 0.3, from 0.8: the score's own gradient is zero
    detector = ReAct(chain([[1.0, 0.0], [0.0, 2.0]]), clip=0.3)
    hard, soft = reached(detector, pixels([0.8, 0.8], [0.7, 0.9]), aim="raise", eps=0.7)
    assert (hard == 0).all()
    # the best: (0.8, 0.8) -> (0.1, 0.1), (0.7, 0.9) -> (0, 0.2), from (0.3, 0.3)
    before, after = energy(double([0.3, 0.6], [0.3, 0.6])), energy(double([0.1, 0.2], [0, 0.4]))
    torch.testing.assert_close(soft, after - before)


def test_line_with_kept_neurons_above_the_clip_is_attacked_through_the_surrogate():
    # class 1 keeps neuron 2; above the clip it has no gradient
    detector, x = by_hand(), pixels([0, 0.5, 0.9])
    hard, soft = reached(detector, x, aim="raise", eps=0.8)
    assert (hard == 0).all() and (soft > 0.3).all()


def test_gradnorm_of_confident_networks_with_normalised_features_is_attacked_through_the_surrogate():
    # ||h||_1 = 1 always, and the two logits are 200 apart: float32 has no gradient left
    net = chain([[200.0, 0.0], [0.0, 200.0]], norm=Normalised()).float()
    hard, soft = reached(GradNorm(net), pixels([1, 0.01]).float(), aim="raise", eps=0.6)
    assert (hard == 0).all() and (soft > 0.5).all()


@pytest.mark.parametrize("aim", ["raise", "hide"])
@pytest.mark.parametrize("name", ["gradnorm", "react", "line", "rankfeat"])
def test_surrogates_reach_as_far_where_the_score_has_a_gradient(name, aim):
    hard, soft = reached(BUILD[name](), images(8, seed=4), aim=aim, eps=0.05)
    assert soft.mean() >= 0.97 * hard.mean() > 0


def test_line_of_a_network_reaches_further():
    # of 16 neurons a class keeps two; the clip is at the 90th percentile of the features
    hard, soft = reached(BUILD["line"](), images(8, seed=4), aim="raise", eps=0.1)
    assert soft.mean() > 1.5 * hard.mean() > 0


def scaled():
    network = nn.Sequential(OrderedDict(flat=nn.Flatten(), head=nn.Linear(2, 2), scale=Scaled()))
    return Classifier(network.double().eval())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fit_react(small(), images(0)), "`x` must have images to fit on, got 0"),
        (lambda: fit_dice(small(), images(0)), "`x` must have images to fit on, got 0"),
        (lambda: fit_line(small(), images(0), labels(0)), "`x` must have images to fit on, got 0"),
        (lambda: fit_react(small(), images(4), percentile_kept=0.0), r"`percentile_kept` must be in \(0, 100\], got 0"),
        (lambda: fit_react(small(), images(4), percentile_kept=0.1), "`percentile_kept` must be above the share"),
        (lambda: fit_dice(small(), images(4), percentile_dropped=100.0), r"must be in \[0, 100\), got 100"),
        (
            lambda: fit_line(small(), images(4), labels(4), neuron_percentile=-1.0),
            r"`neuron_percentile` must be in \[0, 100\), got -1",
        ),
        (
            lambda: fit_line(small(), images(4), labels(4), weight_percentile=100.0),
            r"`weight_percentile` must be in \[0, 100\), got 100",
        ),
        (lambda: fit_line(small(), images(4), labels(3)), "must have one label an image, got 3 labels for 4 images"),
        (lambda: fit_line(small(), images(4), labels(4) + 1), r"`y` must be classes 0..2 of the head, got 1..3"),
        (lambda: fit_line(small(), images(2), labels(2)), "got none of class 2"),
        (lambda: fit_dice(scaled(), pixels([0.1, 0.2])), "the output of head 'head' must be the logits, got others"),
        (lambda: DICE(small(), torch.ones(2, 2)), r"`mask` must have the shape \(3, 16\)"),
        (lambda: DICE(small(), torch.zeros(3, 16)), "`mask` must keep a weight, got none"),
        (
            lambda: LINe(small(), torch.ones(2, 2), torch.ones(2), torch.ones(2), clip=1.0),
            r"`contributions` must have the shape \(3, 16\)",
        ),
        (lambda: GradNorm(Classifier(small().network, head="layer1.conv1")), "1 x 1 convolution as head, got Conv2d"),
        (lambda: RankFeat(small(), layers=[]), "`layers` must name at least one layer"),
        (lambda: RankFeat(small(), layers=["pool"])(images(1)), "more than one channel and position, got"),
        (lambda: RankFeat(small(), layers=["nowhere"])(images(1)), "layers must name modules of the network"),
    ],
)
def test_wrong_use_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_slope_is_small():
    # one that is not small would drown the gradient of what is not cut off
    assert 0 < SLOPE <= 0.03
