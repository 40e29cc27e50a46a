"""Softmax with the convolutional features as latent."""

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors.confident import Confident
from oodattack.detectors.msp import MSP, msp
from oodattack.models.small import SmallResNet

DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])


class Plain(nn.Module):
    """Convolutional `features`, linear `classifier`, as VGG."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.classifier = nn.Linear(16, 3)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def built(make=Plain, dtype=torch.float64):
    torch.manual_seed(0)
    return Confident(Classifier(make().to(dtype).eval(), mean=[0.5], std=[0.25]))


def images(rows, dtype=torch.float64):
    return torch.rand(rows, 1, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def test_latent_is_the_output_of_features_and_the_score_a_function_of_it():
    detector, x = built(), images(5)
    z = detector.latent(x)
    assert detector.layer == "features" and z.shape == (5, 16)
    torch.testing.assert_close(detector(x), msp(detector.net.network.classifier(z)))
    torch.testing.assert_close(z, detector.net.network.features((x - 0.5) / 0.25).flatten(1))


def test_without_features_the_latent_is_the_last_stage_and_any_layer_can_be_named():
    detector, x = built(lambda: SmallResNet(1, 3, width=4)), images(5)
    assert detector.layer == "layer3" and detector.latent(x).shape == (5, 16 * 2 * 2)
    replaced = detector.net.run(x, replace={"layer3": detector.latent(x).view(5, 16, 2, 2)}).logits
    torch.testing.assert_close(detector(x), msp(replaced))
    assert Confident(detector.net, layer="layer1").latent(x).shape == (5, 4 * 8 * 8)


def test_score_and_its_surrogate_are_those_of_msp_but_not_the_latent():
    detector, x = built(), images(5)
    plain = MSP(detector.net)
    assert torch.equal(detector(x), plain(x)) and detector.surrogate == plain.surrogate
    assert detector.latent(x).shape != plain.latent(x).shape and not hasattr(detector, "of_logits")


@DTYPES
def test_scores_of_any_batch_and_nothing_left_behind(dtype, tolerance):
    detector, x = built(lambda: SmallResNet(1, 3, width=4), dtype), images(6, dtype)
    for f in (detector, detector.latent, detector.surrogate.score):
        whole = f(x).detach()
        assert whole.dtype == dtype and whole.isfinite().all()
        torch.testing.assert_close(torch.cat([f(r[None]).detach() for r in x]), whole, rtol=tolerance, atol=tolerance)
        with torch.no_grad():
            assert torch.equal(f(x), whole)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in detector.modules())
    assert all(p.grad is None for p in detector.parameters()) and not detector.training


def test_attack_on_the_surrogate_and_on_the_latent():
    detector, x = built(), images(4)
    other, z, w = detector.latent(images(8)[4:]).detach(), x, x
    clean, far = detector(x), (detector.latent(x) - other).square().sum(1)
    for _ in range(20):
        z, w = z.detach().requires_grad_(), w.detach().requires_grad_()
        (g,) = torch.autograd.grad(detector.surrogate.score(z).sum(), z)
        (h,) = torch.autograd.grad((detector.latent(w) - other).square().sum(), w)
        z = (x + (z - 0.02 * g.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
        w = (x + (w - 0.005 * h.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    assert (detector(z) < clean).all()
    assert ((detector.latent(w) - other).square().sum(1) < 0.2 * far).all()


def test_layers_that_are_not_there():
    detector = built()
    with pytest.raises(ValueError, match=r"`layers` must name modules of the network, got \['nonsense'\]"):
        Confident(detector.net, layer="nonsense")
    with pytest.raises(ValueError, match="the network has no modules named like `layer1`"):
        Confident(Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))))
