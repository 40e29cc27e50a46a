"""pytorch-ood 0.4: every one of its detectors, as it is."""

import importlib.util
import inspect
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_ood import detector as po
from torch import nn

from oodattack import evaluate, read_threat
from oodattack.adapters import PytorchOOD, adapted
from oodattack.detector import Surrogate
from oodattack.keep_graph import Kept
from oodattack.metrics import auroc, rank_correlation

_spec = importlib.util.spec_from_file_location("small_detectors", Path(__file__).with_name("small_detectors.py"))
small = importlib.util.module_from_spec(_spec)
sys.modules["small_detectors"] = small
_spec.loader.exec_module(small)

KEPT = "own score, its graph kept"
FOLLOWED = {  # what attacks differentiate; None: the score itself
    "ASH": KEPT,
    "DICE": KEPT,
    "EnergyBased": None,
    "Entropy": "logarithm of the entropy",
    "GEN": "logarithm of the generalised entropy",
    "GMM": KEPT,
    "GradNorm": KEPT,
    "GradUncertainty": KEPT,
    "Gram": KEPT,
    "KLMatching": "own score from log-probabilities",
    "KNN": "own score in torch, sloped by the mean of the k nearest",
    "LTS": KEPT,
    "MCD": "logarithm of the variance over passes",
    "MCM": "log-odds of the largest softmax of similarities",
    "Mahalanobis": KEPT,
    "MahalanobisODIN": "own score, straight through the preprocessing",
    "MaxLogit": None,
    "MaxSoftmax": "log-odds of the largest softmax",
    "MultiMahalanobis": KEPT,
    "NACUE": "own score, with slopes between its bins",
    "NCI": KEPT,
    "NNGuide": KEPT,
    "ODIN": "log-odds at temperature 1000, straight through the preprocessing",
    "OpenMax": "log-odds of the unknown class",
    "PNML": "log(exp(regret) - 1)",
    "RMD": KEPT,
    "RankFeat": "own score by power iterations",
    "ReAct": KEPT,
    "SCALE": KEPT,
    "SHE": None,
    "TemperatureScaling": "log-odds of the largest softmax",
    "VRA": KEPT,
    "ViM": KEPT,
    "WeightedEBO": "own score by logsumexp",
    "fDBD": KEPT,
}
NOT_OF_ITS_ROW = {"OpenMax", "MCD"}  # the one depends on its batch, the other on dropout masks
SHORT = read_threat("linf-8-255").model_copy(update={"queries": 15, "name": "short"})
BOX = read_threat("sanity-full-box")


def sets():
    return SimpleNamespace(id=small.images(12, seed=3)[0], ood=small.images(8, ood=True, seed=4)[0])


def scores(stock, x):
    """Of the library, with the same dropout masks at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return stock(x).detach().double()


def state(net):
    """What a detector must leave as it is."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = [len(getattr(m, kind)) for m in net.modules() for kind in kinds]
    modes = [m.training for m in net.modules()]
    return hooks, modes, [(p.requires_grad, p.grad) for p in net.parameters()]


def attacked(stock, threat=SHORT):
    """The record of one cell and the attacked images."""
    x, seen = sets(), []
    report = evaluate(stock, id=x.id, ood={"ood": x.ood}, threats=[threat], seed=0, watch=seen.append)
    return report.results[0], seen[0].x_adv


def random_signs(x, eps, draws=8):
    generator = torch.Generator().manual_seed(0)
    return [(x + eps * (2.0 * torch.randint(2, x.shape, generator=generator) - 1)).clamp(0, 1) for _ in range(draws)]


def stronger_than_noise(stock, x_adv, eps=8 / 255):
    """Whether the library's own scores fell below their mean, clean and after random signs of the same radius."""
    x = sets().ood
    noisy = torch.stack([scores(stock, z) for z in random_signs(x, eps)]).mean()
    return scores(stock, x_adv).mean() < min(noisy, scores(stock, x).mean())


def test_the_table_has_every_detector_of_the_library():
    classes = {name for name in po.__all__ if inspect.isclass(getattr(po, name))}
    assert classes == set(FOLLOWED) == set(small.BUILD)
    assert len(classes) == 35


@pytest.mark.parametrize("name", FOLLOWED)
def test_every_detector_works_unchanged(name):
    net, before = small.network(), state(small.network())
    stock, x = small.built(name), sets()
    assert state(net) == before
    assert torch.equal(scores(adapted(stock), x.ood), scores(stock, x.ood))
    result, x_adv = attacked(stock)
    if name not in NOT_OF_ITS_ROW:
        assert result.clean.auroc == pytest.approx(auroc(scores(stock, x.id), scores(stock, x.ood)), abs=1e-12)
    assert (result.surrogate, result.indicators["white_box"]) == (FOLLOWED[name], True)
    expected = None if name == "MCD" else name not in NOT_OF_ITS_ROW  # MCD draws anew in every call
    assert result.indicators["row_independent"] is expected
    assert result.indicators["non_finite_share"] == 0
    assert result.distance <= 8 / 255 + 1e-6
    assert stronger_than_noise(stock, x_adv)
    if name != "MahalanobisODIN":  # which fills gradients of weights whenever the library calls it
        assert state(net) == before
    net.zero_grad()


SATURATED = {
    "MaxSoftmax": None,
    "TemperatureScaling": None,
    "Entropy": None,
    "GEN": None,
    "KLMatching": None,
    "PNML": None,
    "MCD": None,
    "MCD mean": lambda net: po.MCD(net, samples=6, mode="mean"),
    "MCM": lambda net: po.MCM(net.features, torch.eye(4, small.WIDTH) + 0.1, temperature=0.01),
    "ODIN": lambda net: po.ODIN(net, temperature=1.0),
    "ReAct": lambda net: po.ReAct(net.maps, net.head, detector=po.MaxSoftmax.score),
    "VRA": lambda net: po.VRA(net.maps, net.head, detector=po.Entropy.score),
    "RankFeat": lambda net: po.RankFeat(net.maps, net.head, detector=po.MaxSoftmax.score),
}


@cache
def confident():
    """The network with logits 25 times as large."""
    net = small.Net()
    net.load_state_dict(small.network().state_dict())
    with torch.no_grad():
        net.fc.weight.mul_(25)
        net.fc.bias.mul_(25)
    return net.eval()


@pytest.mark.parametrize("name", SATURATED)
def test_saturation_hides_no_gradient(name):
    build = SATURATED[name] or small.BUILD[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stock = build(confident()).to("cpu").fit(small.loader())
    result, x_adv = attacked(stock)
    assert result.indicators["white_box"]
    assert result.indicators["zero_gradient_share"] == 0
    assert result.indicators["non_finite_share"] == 0
    assert stronger_than_noise(stock, x_adv)


@pytest.mark.parametrize("name", [name for name in FOLLOWED if adapted(small.built(name)).surrogate])
def test_a_twin_orders_images_as_the_library_does(name):
    stock, (x, _) = small.built(name), small.images(40, seed=6)
    x = torch.cat([x, small.images(20, ood=True, seed=7)[0]])
    twin = adapted(stock).surrogate
    found, wanted = scores(twin.score, x), scores(stock, x)
    if twin.name.startswith("own score"):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    order = rank_correlation(found, wanted)
    assert order > (0.999 if twin.exact else 0.99)


@pytest.mark.parametrize("name", ["GradNorm", "GradUncertainty", "ODIN", "NACUE", "OpenMax"])
def test_a_search_in_bfloat16(name):
    x = sets()
    options = {"id": x.id, "ood": {"ood": x.ood}, "threats": [SHORT], "seed": 0}
    full, reduced = (
        evaluate(small.built(name), **options, precision=p).results[0].attacked.auroc for p in ("full", "bfloat16")
    )
    assert abs(full - reduced) <= 0.1


def dead(net):
    """A copy with logits 1000 times as large, half of whose channels are always 0."""
    copy = small.Net()
    copy.load_state_dict(net.state_dict())
    with torch.no_grad():
        copy.block2[1].weight[::2] = 0
        copy.block2[1].bias[::2] = -1
        copy.fc.weight.mul_(1000)
    return copy.eval()


@pytest.mark.parametrize("name", ["KLMatching", "RankFeat", "Gram"])
def test_gradients_are_finite_where_the_library_has_infinite_ones(name):
    # probabilities of 0, equal singular values of dead channels, roots of 0
    stock = small.BUILD[name](dead(small.network())).to("cpu").fit(small.loader())
    x = sets().ood
    followed = adapted(stock).surrogate or Surrogate("", Kept(stock))
    found = []
    for score in (followed.score, Kept(stock)):
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(score(leaf).sum(), leaf)
        found.append(bool(grad.isfinite().all()))
    assert found[0] and found[1] == (name == "Gram")
    result, _ = attacked(stock)
    assert result.indicators["non_finite_share"] == 0


def test_openmax_depends_on_its_batch_and_says_so():
    result, _ = attacked(small.built("OpenMax"))
    assert not result.indicators["row_independent"]
    assert result.verdict != "holds"


def test_a_neighbour_in_another_metric_is_a_black_box():
    stock = po.KNN(small.network().features, k=5, metric="manhattan").to("cpu").fit(small.loader())
    result, x_adv = attacked(stock)
    assert (result.surrogate, result.indicators["white_box"]) == (None, False)
    assert result.attack.startswith("square")
    assert scores(stock, x_adv).mean() < scores(stock, sets().ood).mean()


def test_a_whole_box_breaks_what_has_no_gradient_of_its_own():
    result, _ = attacked(small.built("KNN"), BOX)
    assert result.attacked.auroc <= 0.5


class Doubled(po.KNN):
    """A detector of the user's own on top of the library's."""

    def predict(self, x):
        return 2 * super().predict(x)


def test_a_subclass_has_no_twin_of_its_parent():
    stock = Doubled(small.network().features, k=5).to("cpu").fit(small.loader())
    assert isinstance(adapted(stock), PytorchOOD) and adapted(stock).surrogate is None


@pytest.mark.parametrize("name", [name for name in FOLLOWED if getattr(po, name).requires_fit])
def test_one_that_is_not_fitted_is_refused_in_one_line(name):
    x = sets()
    with pytest.raises(
        ValueError, match=r"must score images \(3, 16, 16\), got .*\. Correct detector or images\."
    ) as error:
        evaluate(small.BUILD[name](small.network()), id=x.id, ood={"ood": x.ood}, threats=[SHORT], seed=0)
    assert "\n" not in str(error.value)


def test_other_objects_are_left_alone():
    for other in (len, nn.Identity(), object()):
        assert adapted(other) is other


def test_layers_in_training_mode_are_refused_wherever_they_hide():
    net = small.Net().eval()
    net.block1[1].train()
    hidden = [
        po.EnergyBased(net),
        po.Mahalanobis(net.features),
        po.MahalanobisODIN(lambda x: net.features(x)),
        po.MultiMahalanobis([net.block1]),
    ]
    for stock in hidden:
        with pytest.raises(
            ValueError, match=r"must be in eval mode, got training mode in '.*1'\. Call \.eval\(\) first\."
        ):
            adapted(stock)
    adapted(po.EnergyBased(nn.Sequential(net.block1[0], net.fc)))  # a container in training mode does no harm


def test_a_score_that_fails_leaves_no_hooks_and_no_training_mode():
    net = small.Net().eval()
    before = state(net)
    for kind in (lambda net: po.NACUE(net, [net.block1]), lambda net: po.MCD(net)):
        stock = kind(net).to("cpu").fit(small.loader())
        with pytest.raises(RuntimeError):
            adapted(stock)(torch.rand(2, 1, 16, 16))
    assert state(net) == before


def test_frozen_weights_are_no_obstacle():
    net = small.Net().eval()
    stock = po.NACUE(net, [net.block1]).fit(small.loader())
    net.requires_grad_(False)
    with torch.no_grad():
        assert adapted(stock)(sets().ood).shape == (8,)


def test_it_moves_with_all_it_was_fitted_to():
    net = small.Net().eval()
    stock = po.Mahalanobis(net.features).fit(small.loader())
    adapted(stock).to(torch.device("cpu"), torch.float64)
    assert stock.mu.dtype == stock.precision.dtype == net.fc.weight.dtype == torch.float64
    assert adapted(stock)(sets().ood.double()).dtype == torch.float64


LOGITS = {"MaxSoftmax", "ODIN", "SHE", "ReAct", "MCD"}
NO_LOGITS = {"KNN", "Mahalanobis", "MultiMahalanobis", "MCM", "ViM"}


@pytest.mark.parametrize("name", sorted(LOGITS | NO_LOGITS))
def test_logits_and_features_are_found_where_the_library_says_which_they_are(name):
    net, x = small.network(), sets().ood
    found = adapted(small.built(name)).net
    assert hasattr(found, "logits") == (name in LOGITS)
    if name in LOGITS:
        assert torch.equal(found.logits(x), net(x))
    if hasattr(found, "features"):
        assert torch.equal(found.features(x), net.features(x))
    assert hasattr(found, "features") == (name in ("SHE", "KNN", "Mahalanobis", "MCM", "ViM"))


def test_a_suite_uses_them():
    x = sets()
    report = evaluate(small.built("SHE"), id=x.id, ood={"ood": x.ood[:4]}, threats=["ood-aa"], seed=0)
    assert {"score", "logits", "latent", "class-logits", "square"} <= set(report.results[0].members)
    assert report.results[0].verdict == "broken"
    assert report.spec.networks["she"] != ""
