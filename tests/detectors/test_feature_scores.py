"""What a detector promises, for scores of logits and of distances between features."""

from collections import OrderedDict
from functools import cache, partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from oodattack.classifier import Classifier
from oodattack.detectors.ensemble import DeepEnsemble, log_entropy, mean_log_softmax
from oodattack.detectors.knn import KNN, fit_knn, knn
from oodattack.detectors.layer_weights import fit_layer_weights
from oodattack.detectors.linear_head import head_logits
from oodattack.detectors.mahalanobis_layers import fit_mahalanobis_layers
from oodattack.detectors.oe_score import OEScore, oe_score
from oodattack.detectors.pnml import PNML, fit_pnml
from oodattack.detectors.vim import ViM, fit_vim, residual_norm
from oodattack.models.small import SmallResNet


def randomised(seed):
    """Norm statistics and affine parameters away from 0 and 1, in eval mode."""
    torch.manual_seed(seed)
    network = SmallResNet(1, 3, width=4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    nn.init.normal_(network.head.weight)
    return network.eval()


def classifier(dtype=torch.float64, seed=0):
    return Classifier(randomised(seed).to(dtype), mean=[0.5], std=[0.25])


def images(rows, *, seed=2, dtype=torch.float64):
    """Noise of varied brightness."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(rows, 1, 1, 1, generator=generator, dtype=torch.float64)
    return (level * torch.rand(rows, 1, 32, 32, generator=generator, dtype=torch.float64)).to(dtype)


def weighted_layers(net, x):
    plain = fit_mahalanobis_layers(net, x, torch.arange(len(x)) % 3, layers=["layer1", "layer2"])
    return fit_layer_weights(plain, x[:20], 1 - x[20:40])


FITS = {"knn": fit_knn, "vim": fit_vim, "pnml": fit_pnml}
BUILD = {
    "oe-score": lambda net, x: OEScore(net),
    **FITS,
    "ensemble": lambda net, x: DeepEnsemble([net, classifier(x.dtype, seed=1)]),
    "mahalanobis-layers": weighted_layers,
}
EVERY = pytest.mark.parametrize("name", BUILD)
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])


@cache
def built(name, dtype=torch.float64):
    return BUILD[name](classifier(dtype), images(60, seed=1, dtype=dtype))


def network(detector):
    return (detector.nets[0] if isinstance(detector, DeepEnsemble) else detector.net).network


def callables(detector):
    stand_in = getattr(detector, "surrogate", None)
    return [detector, detector.latent, *([stand_in.score] if stand_in else [])]


def hooks(module):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(part, kind)) for part in module.modules() for kind in kinds]


@EVERY
@DTYPES
def test_shapes_types_and_finite_values(name, dtype, tolerance):
    detector, x = built(name, dtype), images(5, dtype=dtype)
    score, latent = detector(x), detector.latent(x)
    assert detector.name == name
    assert score.shape == (5,) and score.dtype == dtype and score.isfinite().all() and score.unique().numel() == 5
    assert latent.ndim == 2 and len(latent) == 5 and latent.dtype == dtype and latent.isfinite().all()


@EVERY
def test_grad_mode_makes_no_difference_and_nothing_is_left_behind(name):
    detector, x = built(name), images(3)
    before, modes, clean = hooks(detector), [m.training for m in detector.modules()], x.clone()
    state = {key: value.clone() for key, value in detector.state_dict().items()}
    for f in callables(detector):
        with torch.no_grad():
            without = f(x)
        assert not without.requires_grad
        assert torch.equal(without, f(x).detach()) and torch.equal(without, f(x.clone().requires_grad_()).detach())
    assert hooks(detector) == before and [m.training for m in detector.modules()] == modes and not any(modes)
    assert torch.equal(x, clean) and x.grad is None and not x.requires_grad
    assert all(p.grad is None and p.requires_grad for p in detector.parameters())
    assert all(torch.equal(state[key], value) for key, value in detector.state_dict().items())


@EVERY
def test_no_hooks_are_left_after_an_exception(name):
    detector = built(name)
    before = hooks(detector)

    def fail(*_):
        raise RuntimeError("out of memory")

    for f in callables(detector):
        handle = network(detector).layer2.conv2.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            f(images(2))
        handle.remove()
        assert hooks(detector) == before


@EVERY
def test_what_an_attack_differentiates_has_a_gradient(name):
    detector, x = built(name), images(4).requires_grad_()
    stand_in = getattr(detector, "surrogate", None)
    for f in (stand_in.score if stand_in else detector, detector.latent):
        (gradient,) = torch.autograd.grad(f(x).sum(), x)
        assert gradient.isfinite().all() and (gradient.flatten(1).abs().amax(1) > 0).all()


@EVERY
def test_surrogates_have_the_order_of_the_score(name):
    detector, x = built(name), images(40, seed=3)
    stand_in = getattr(detector, "surrogate", None)
    assert (stand_in is not None) == (name in ("pnml", "ensemble", "knn"))
    if stand_in is None:
        return
    assert stand_in.exact and torch.equal(stand_in.score(x).argsort(), detector(x).argsort())


def attacked(f, x, sign, *, eps=0.03, steps=20):
    """PGD along the sign of the gradient, in the box; the best of what it comes by."""
    x_adv, best, value = x, x, sign * f(x).detach()
    for _ in range(steps):
        leaf = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(f(leaf).sum(), leaf)
        step = leaf.detach() + sign * eps / 8 * gradient.sign()
        x_adv = (x + (step - x).clamp(-eps, eps)).clamp(0, 1)
        found = sign * f(x_adv).detach()
        best, value = torch.where((found > value)[:, None, None, None], x_adv, best), found.maximum(value)
    return best


@EVERY
@pytest.mark.parametrize("sign", [1, -1])
def test_an_attack_moves_the_score_and_further_than_noise_does(name, sign):
    detector, x = built(name), images(8, seed=4)
    stand_in = getattr(detector, "surrogate", None)
    moved = detector(attacked(stand_in.score if stand_in else detector, x, sign)) - detector(x)
    assert (sign * moved > 0).all()
    flips = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(5)).double() * 2 - 1
    noise = detector((x + 0.03 * flips).clamp(0, 1)) - detector(x)
    assert moved.abs().mean() > 2 * noise.abs().mean()


SCORE_OF_LATENT = {
    "oe-score": lambda d, z: oe_score(z),
    "knn": lambda d, z: knn(z, d.bank, d.k),
    "vim": lambda d, z: d.alpha * residual_norm(z, d.origin, d.residual) - head_logits(d.net, z).logsumexp(1),
    "ensemble": lambda d, z: log_entropy(mean_log_softmax(z.unflatten(1, (len(d.nets), -1)))).exp(),
}


@pytest.mark.parametrize("name", SCORE_OF_LATENT)
def test_score_is_its_function_of_the_latent(name):
    detector, x = built(name), images(4)
    torch.testing.assert_close(detector(x), SCORE_OF_LATENT[name](detector, detector.latent(x)), rtol=1e-12, atol=0)


def test_pnml_is_its_printed_function_of_the_latent():
    detector, z = built("pnml"), built("pnml").latent(images(4))
    p, q = head_logits(detector.net, z).softmax(1), (z @ detector.whitening).square().sum(1, keepdim=True)
    regret = (p / (p + (1 - p) * p ** (q / (1 + q)))).sum(1).log()
    torch.testing.assert_close(detector(images(4)), regret / torch.tensor(3.0).double().log(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", FITS)
def test_fits_of_loaders_and_of_tensors_are_equal(name):
    net, x, probe = classifier(), images(30, seed=1), images(6)
    whole = FITS[name](net, x)(probe)
    for loader in (DataLoader(TensorDataset(x, torch.zeros(30)), batch_size=7), list(x.split(11))):
        torch.testing.assert_close(FITS[name](net, loader)(probe), whole, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match=r"`x` must have images to fit on"):
        FITS[name](net, iter(()))


@pytest.mark.parametrize("name", ["vim", "pnml"])
def test_logits_must_be_those_of_the_head(name):
    class Halved(nn.Module):
        def forward(self, x):
            return x / 2

    parts = OrderedDict(flat=nn.Flatten(), head=nn.Linear(4, 3), scale=Halved())
    with pytest.raises(ValueError, match=r"the output of head 'head' must be the logits, got others"):
        FITS[name](Classifier(nn.Sequential(parts)), torch.rand(8, 1, 2, 2))


REBUILD = {
    "knn": lambda d: partial(KNN, d.net, d.bank, k=d.k, classes=d.classes),
    "vim": lambda d: partial(ViM, d.net, d.origin, d.residual, alpha=d.alpha),
    "pnml": lambda d: partial(PNML, d.net, d.whitening),
}


@pytest.mark.parametrize("name", REBUILD)
def test_constructor_arguments_can_be_read_back(name):
    detector = built(name)
    again = REBUILD[name](detector)()
    assert torch.equal(again(images(4)), detector(images(4)))
    assert again.state_dict().keys() == detector.state_dict().keys()
