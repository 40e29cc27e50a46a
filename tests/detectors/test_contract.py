"""What every row of the table of detectors promises; a new row is covered by being there."""

from functools import cache

import pytest
import torch
from torch import nn

from oodattack.detector import Classifier, Surrogate
from oodattack.detectors import DETECTORS, Fit
from oodattack.detectors.energy import energy
from oodattack.detectors.gradnorm import gradnorm
from oodattack.detectors.mahalanobis import Gaussians, mahalanobis
from oodattack.detectors.max_logit import max_logit
from oodattack.detectors.msp import msp
from oodattack.detectors.react import head_logits
from oodattack.models.small import SmallResNet

EVERY = pytest.mark.parametrize("name", DETECTORS)
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])


def randomised(network):
    """Norm statistics and affine parameters away from 0 and 1, in eval mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    nn.init.normal_(network.head.weight, 0, 1)
    return network.eval()


@cache
def built(name, dtype=torch.float64):
    """A fitted detector on a network of random weights."""
    torch.manual_seed(0)
    net = Classifier(randomised(SmallResNet(1, 3, width=4)).to(dtype), mean=[0.5], std=[0.25])
    return DETECTORS[name].build(net, Fit(images(60, seed=1, dtype=dtype), torch.arange(60) % 3))


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
    assert {name for name, row in DETECTORS.items() if row.fits} == {
        "mahalanobis",
        "mahalanobis-layers",
        "si-z+max-logit",
        "gram",
        "react",
        "dice",
        "line",
    }


@EVERY
@DTYPES
def test_shapes_types_and_finite_values(name, dtype, tolerance):
    detector, x = built(name, dtype), images(5, dtype=dtype)
    score, latent = detector(x), detector.latent(x)
    assert score.shape == (5,) and score.dtype == dtype and score.isfinite().all()
    assert latent.ndim == 2 and len(latent) == 5 and latent.dtype == dtype and latent.isfinite().all()
    assert score.unique().numel() == 5  # not a constant


@EVERY
@DTYPES
def test_rows_do_not_influence_one_another(name, dtype, tolerance):
    x = images(6, dtype=dtype)
    for f in callables(built(name, dtype)):
        whole = f(x).detach()
        single = torch.cat([f(row[None]).detach() for row in x])
        torch.testing.assert_close(single, whole, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(f(x.flip(0)).detach().flip(0), whole, rtol=tolerance, atol=tolerance)


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

    for f in callables(detector):
        handle = detector.net.network.layer3.conv2.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            f(images(2))
        handle.remove()
        assert hooks(detector) == before


@EVERY
def test_modes_of_the_submodules_are_not_touched_by_building(name):
    network = SmallResNet(1, 3, width=4).double().train()
    network.stem.eval()  # frozen, as in fine-tuning
    modes = [m.training for m in network.modules()]
    detector = DETECTORS[name].build(Classifier(network), Fit(images(12), torch.arange(12) % 3))
    assert [m.training for m in network.modules()] == modes
    assert detector.training and detector.net.training


SCORE_OF_LATENT = {
    "msp": lambda d, z: msp(z),
    "max-logit": lambda d, z: max_logit(z),
    "energy": lambda d, z: energy(z),
    "odin": lambda d, z: msp(z / 1000),
    "mahalanobis": lambda d, z: mahalanobis(z, Gaussians(d.means, d.precision)),
    "mahalanobis-layers": lambda d, z: torch.stack(
        [
            mahalanobis(part, Gaussians(d.get_buffer(f"means{i}"), d.get_buffer(f"precision{i}")))
            for i, part in enumerate(z.split([4, 4, 8, 16], dim=1))  # channels of stem, layer1, layer2, layer3
        ]
    ).mean(0),
    **dict.fromkeys(("react", "dice", "line", "rankfeat"), lambda d, z: energy(z)),
    "gradnorm": lambda d, z: gradnorm(z, head_logits(d.net, z)),
    **dict.fromkeys(("gaia-z", "gaia-a", "si-z", "si-a"), lambda d, z: z.square().mean(1)),
}


@pytest.mark.parametrize("name", SCORE_OF_LATENT)
def test_score_is_its_function_of_the_latent(name):
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
