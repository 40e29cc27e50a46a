"""What every row of the table of detectors promises; a new row is covered by being there."""

import re
from functools import cache
from math import log

import pytest
import torch
from small_rows import ROWS, every, network_for
from torch import nn
from torch.nn.functional import softplus

from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors import DETECTORS, Fit
from oodattack.detectors.ccu import ccu
from oodattack.detectors.energy import energy
from oodattack.detectors.ensemble import log_entropy, mean_log_softmax
from oodattack.detectors.gradnorm import gradnorm
from oodattack.detectors.knn import knn
from oodattack.detectors.linear_head import head_logits
from oodattack.detectors.mahalanobis import Gaussians, mahalanobis
from oodattack.detectors.max_logit import max_logit
from oodattack.detectors.msp import msp
from oodattack.detectors.oe_score import oe_score
from oodattack.detectors.outlier_class import outlier_log_odds
from oodattack.detectors.pnml import log_regret
from oodattack.detectors.vim import residual_norm

EVERY = every()
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])


def randomised(network):
    """Norm statistics and affine parameters away from 0 and 1, in eval mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
        if isinstance(module, nn.Linear):  # the head, or one an exit
            nn.init.normal_(module.weight, 0, 1)
    return network.eval()


@cache
def built(name, dtype=torch.float64):
    """A fitted detector on a network of random weights."""
    torch.manual_seed(0)
    nets = [Classifier(randomised(network_for(name, 1)).to(dtype), mean=[0.5], std=[0.25]) for _ in range(2)]
    row = ROWS[name]
    fit = Fit(images(60, seed=1, dtype=dtype), torch.arange(60) % 3, 1 - images(60, seed=4, dtype=dtype) ** 3)
    return row.on(nets, fit)


def network_of(detector):
    """The classifier that a detector stands on, the first of several; None for one without."""
    return next(iter(getattr(detector, "nets", [])), getattr(detector, "net", None))


def test_rows_without_a_network_are_those_that_say_so():
    assert {name for name, row in DETECTORS.items() if row.bare} == {"auto-encoder", "glow", "glow-png"}
    assert not any(row.bare and row.several for row in DETECTORS.values())


@EVERY
def test_only_bare_detectors_hold_no_classifier(name):
    stands = any(isinstance(module, Classifier) for module in built(name).modules())
    assert stands != DETECTORS[name].bare and (network_of(built(name)) is None) == DETECTORS[name].bare


@every([name for name, row in DETECTORS.items() if row.bare])
def test_bare_detectors_are_built_from_images_alone(name):
    fit = Fit(images(60, seed=1), torch.arange(60) % 3)
    assert torch.equal(ROWS[name].build(None, fit)(images(4)), built(name)(images(4)))


def images(rows, *, seed=2, dtype=torch.float64):
    return torch.rand(rows, 1, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def hooks(network):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(module, kind)) for module in network.modules() for kind in kinds]


def callables(detector):
    """The score, the latent, and those of the surrogate."""
    stand_in = getattr(detector, "surrogate", None)
    found = [detector, detector.latent, getattr(stand_in, "score", None), getattr(stand_in, "latent", None)]
    return [f for f in found if f is not None]


def test_table_of_detectors():
    assert all(name == row.name and row.source and row.description for name, row in DETECTORS.items())
    free = "msp max-logit energy odin oe-score ensemble gaia-z gaia-a si-z si-a gradnorm rankfeat"
    free += " confident jem-px jem-py jem-gradient outlier-class"
    assert {name for name, row in DETECTORS.items() if not row.fits} == set(free.split())
    tuned = "odin-tuned mahalanobis-weighted sal-agg sal-agg+mls"
    assert {name for name, row in DETECTORS.items() if row.tunes} == set(tuned.split())
    assert [name for name, row in DETECTORS.items() if row.several] == ["ensemble"]


@EVERY
def test_what_a_row_builds_has_its_name_or_that_of_what_it_tunes(name):
    assert built(name).name == (DETECTORS[name].tuned_from or name)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_source_says_where_in_the_paper_or_in_whose_code(name):
    places = r"eq\. \(|section \d|sections \d|Alg\. \d|appendix [A-Z]|authors' code|OpenOOD v\d"
    assert re.search(places, DETECTORS[name].source)


@every([name for name, row in DETECTORS.items() if row.tunes])
def test_tuned_detectors_want_validation_images(name):
    with pytest.raises(ValueError, match=r"`ood_val` must be OOD images for a tuned detector, got none"):
        ROWS[name].build(Classifier(network_for(name, 1)).double().eval(), Fit(images(12), torch.arange(12) % 3))


@EVERY
@DTYPES
def test_shapes_types_and_finite_values(name, dtype, tolerance):
    detector, x = built(name, dtype), images(5, dtype=dtype)
    score, latent = detector(x), detector.latent(x)
    exact = torch.float64 if name.startswith("odin") else dtype  # 1 - p of many classes at T = 1000 differs late
    assert score.shape == (5,) and score.dtype == exact and score.isfinite().all()
    assert latent.ndim == 2 and len(latent) == 5 and latent.dtype == dtype and latent.isfinite().all()
    assert score.unique().numel() == 5  # not a constant


@EVERY
def test_float32_and_float64_agree(name):
    # scores that count signs or zeros may differ by a few positions in a few thousand
    single, double = built(name, torch.float32)(images(6, dtype=torch.float32)), built(name)(images(6))
    torch.testing.assert_close(single.double(), double, rtol=2e-3, atol=1e-6)


@EVERY
def test_grad_mode_makes_no_difference(name):
    x = images(4)
    for f in callables(built(name)):
        with torch.no_grad():
            without = f(x)
        assert not without.requires_grad
        assert torch.equal(without, f(x).detach())
        assert torch.equal(without, f(x.clone().requires_grad_()).detach())


@EVERY
def test_nothing_is_left_behind(name):
    detector, x = built(name), images(3)
    before, modes, filled = hooks(detector), [m.training for m in detector.modules()], x.clone()
    state = {key: value.clone() for key, value in detector.state_dict().items()}
    for f in callables(detector):
        f(x)
        f(x.clone().requires_grad_())
    assert hooks(detector) == before
    assert [m.training for m in detector.modules()] == modes
    assert torch.equal(x, filled) and x.grad is None and not x.requires_grad
    assert all(p.grad is None and p.requires_grad for p in detector.parameters())
    assert all(torch.equal(state[key], value) for key, value in detector.state_dict().items())


@EVERY
def test_no_hooks_are_left_after_an_exception(name):
    detector = built(name)
    before = hooks(detector)

    def fail(*_):
        raise RuntimeError("out of memory")

    net = network_of(detector)
    convolutions = [module for module in (net or detector).modules() if isinstance(module, nn.Conv2d)]
    for f in callables(detector):
        handle = convolutions[0 if net is None else -1].register_forward_hook(fail)  # deep in a network
        with pytest.raises(RuntimeError, match="out of memory"):
            f(images(2))
        handle.remove()
        assert hooks(detector) == before


@EVERY
def test_modes_of_the_submodules_are_not_touched_by_building(name):
    network = network_for(name, 1).double().train()
    network.stem.eval()  # frozen, as in fine-tuning
    modes = [m.training for m in network.modules()]
    row, net = ROWS[name], Classifier(network)
    fit = Fit(images(12), torch.arange(12) % 3, images(12, seed=5) ** 3)
    detector = row.on([net, net], fit)
    assert [m.training for m in network.modules()] == modes
    assert detector.training != row.bare  # those bring a model of their own, ready to be used
    assert row.bare or network_of(detector).training


SCORE_OF_LATENT = {
    "msp": lambda d, z: msp(z),
    "max-logit": lambda d, z: max_logit(z),
    "energy": lambda d, z: energy(z),
    "odin": lambda d, z: msp(z / 1000),
    "mahalanobis": lambda d, z: mahalanobis(z, Gaussians(d.means, d.precision)),
    "oe-score": lambda d, z: oe_score(z),
    "odin-tuned": lambda d, z: msp(z / d.temperature),
    "knn": lambda d, z: knn(z, d.bank, d.k),
    "vim": lambda d, z: d.alpha * residual_norm(z, d.origin, d.residual) - head_logits(d.net, z).logsumexp(1),
    "pnml": lambda d, z: softplus(log_regret(head_logits(d.net, z), (z @ d.whitening).square().sum(1))) / log(3),
    "ensemble": lambda d, z: log_entropy(mean_log_softmax(z.unflatten(1, (2, -1)))).exp(),
    "mahalanobis-layers": lambda d, z: torch.stack(
        [
            mahalanobis(part, Gaussians(d.get_buffer(f"means{i}"), d.get_buffer(f"precision{i}")))
            for i, part in enumerate(z.split([4, 4, 8, 16], dim=1))  # channels of stem, layer1, layer2, layer3
        ]
    ).mean(0),
    "outlier-class": lambda d, z: outlier_log_odds(z),
    **dict.fromkeys(("react", "dice", "line", "rankfeat"), lambda d, z: energy(z)),
    "gradnorm": lambda d, z: gradnorm(z, head_logits(d.net, z)),
    **dict.fromkeys(("gaia-z", "gaia-a", "si-z", "si-a"), lambda d, z: z.square().mean(1)),
    "confident": lambda d, z: msp(d.net.network.head(z.view(len(z), 16, 2, 2).mean((2, 3)))),
    **dict.fromkeys(("jem-px", "mood"), lambda d, z: energy(z)),
    "jem-py": lambda d, z: msp(z),
    "ccu": lambda d, z: ccu(z[:, :-2], z[:, -2], z[:, -1]),
    **dict.fromkeys(("glow", "glow-png"), lambda d, z: z[:, 0]),
    "sal-agg": lambda d, z: -d.sign * z.square().sum(1).sqrt(),
    "sal-agg+mls": lambda d, z: -z[:, 0] / d.sigma_mls - d.sign * z[:, 1] / d.sigma_agg,
}


@every(SCORE_OF_LATENT)
def test_score_is_its_function_of_the_latent(name):
    # not so jem-gradient and auto-encoder: logits and code are what attacks match, not what the score is made of
    detector, x = built(name), images(4)
    torch.testing.assert_close(detector(x), SCORE_OF_LATENT[name](detector, detector.latent(x)), rtol=1e-12, atol=0)


@EVERY
def test_what_an_attack_differentiates_has_a_gradient(name):
    detector, x = built(name), images(4).requires_grad_()
    stand_in = getattr(detector, "surrogate", None)
    wanted = [stand_in.score, stand_in.latent or detector.latent] if stand_in else [detector, detector.latent]
    for f in wanted:
        (gradient,) = torch.autograd.grad(f(x).sum(), x)
        assert gradient.isfinite().all()
        assert (gradient.flatten(1).abs().amax(1) > 0).all()


@EVERY
def test_surrogates_order_inputs_like_the_score_where_they_say_so(name):
    detector, x = built(name), images(40, seed=3)
    stand_in = getattr(detector, "surrogate", None)
    if stand_in is None:
        assert torch.autograd.grad(detector(x.requires_grad_()).sum(), x)[0].abs().sum() > 0  # needs none
        return
    assert isinstance(stand_in, Surrogate) and stand_in.name
    assert stand_in.score(x).shape == (40,) and stand_in.score(x).isfinite().all()
    if stand_in.exact:
        assert torch.equal(stand_in.score(x).argsort(), detector(x).argsort())


@EVERY
def test_no_part_of_a_detector_is_left_in_training_mode(name):
    assert [path for path, module in built(name).named_modules() if module.training] == []
