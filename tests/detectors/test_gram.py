"""Gram sums, bands and their soft edges by hand, and the detector as a whole."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors.gram import Gram, fit_gram
from oodattack.detectors.gram_bands import Bands, deviation, extremes, gram_sums, soft_deviation
from oodattack.detectors.gram_layers import gram_layers
from oodattack.metrics import rank_correlation
from oodattack.models.small import SmallResNet


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def small(dtype=torch.float64):
    torch.manual_seed(0)
    return Classifier(SmallResNet(1, 3, width=4).to(dtype).eval())


def images(rows, seed=1, dtype=torch.float64):
    """Noise of varied brightness."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(rows, 1, 1, 1, generator=generator, dtype=torch.float64)
    return (level * torch.rand(rows, 1, 32, 32, generator=generator, dtype=torch.float64)).to(dtype)


def stripes(rows):
    x = torch.zeros(rows, 1, 32, 32, dtype=torch.float64)
    x[:, :, ::4] = torch.linspace(0.5, 1, rows, dtype=torch.float64).view(-1, 1, 1, 1)
    return x


def pixel():
    """One layer that puts out the pixels (a, b) as two channels; logits (a, b)."""
    flat, head = nn.Flatten(), nn.Linear(2, 2, bias=False)
    head.weight.data = torch.eye(2)
    return Classifier(nn.Sequential(OrderedDict(layer1=nn.Identity(), flat=flat, head=head)).double().eval())


def test_gram_sums_by_hand():
    # F = [[1, 2], [0, -1]]: F F^T = [[5, -2], [-2, 1]], row sums 3, -1
    # p = 2: F^2 = [[1, 4], [0, 1]], F^2 F^2^T = [[17, 4], [4, 1]], row sums 21, 5, and their square roots
    # p = 3: F^3 = [[1, 8], [0, -1]], F^3 F^3^T = [[65, -8], [-8, 1]], row sums 57, -7, and signed cube roots
    h = double([1, 2], [0, -1]).view(1, 2, 1, 2)
    wanted = double([3, -1], [21**0.5, 5**0.5], [57 ** (1 / 3), -(7 ** (1 / 3))])
    torch.testing.assert_close(gram_sums(h, (1, 2, 3))[0], wanted)
    torch.testing.assert_close(gram_sums(h, (3,)), gram_sums(h, (1, 2, 3))[:, 2:])


def test_gram_sums_are_those_of_the_whole_matrix():
    h = torch.randn(3, 4, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for p in (1, 4, 5):
        f = h.flatten(2) ** p
        s = (f @ f.mT).sum(2)
        torch.testing.assert_close(gram_sums(h, (p,))[:, 0], s.sign() * s.abs() ** (1 / p))
    assert gram_sums(h.float(), (5,)).dtype == torch.float64


def test_gradient_of_dead_channels_is_finite():
    h = torch.zeros(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(gram_sums(h, (1, 2, 3, 4, 5), tiny=1e-40).sum(), h)
    assert gradient.isfinite().all()


def test_deviation_by_hand():
    # band 2..4: 1 is below by 1/2, 3 inside, 6 above by 2/4
    low, high = double(2, 2, 2).view(1, 1, 3), double(4, 4, 4).view(1, 1, 3)
    assert deviation(double(1, 3, 6).view(1, 1, 3), low, high).item() == pytest.approx(1, rel=1e-5)
    soft = soft_deviation(double(1, 3, 6).view(1, 1, 3), low, high, sharp=0.01)
    assert soft.item() == pytest.approx(1, rel=1e-5)
    # on the lower edge t softplus(0) / 2 = 0.01 * 2 * log(2) / 2; the upper one is 100 widths of t away
    edge = soft_deviation(double(2).view(1, 1, 1), low[..., :1], high[..., :1], sharp=0.01).item()
    assert edge == pytest.approx(0.01 * 0.6931472, rel=1e-5)


def test_score_by_hand():
    # layer1 of pixels (a, b): p = 1 sums (a (a + b), b (a + b)), for (1, 0) these are (1, 0), class 0
    band = Bands(double([[0.5, 0.0]], [[9, 9]]), double([[0.8, 0.2]], [[9, 9]]), 0.1)
    detector = Gram(pixel(), ["layer1"], [band], powers=(1,))
    confidence = 1 / (1 + torch.tensor(-1.0).exp().item())
    # above the first band by 0.2 / 0.8, inside the second
    assert detector(double(1, 0).view(1, 2, 1, 1)).item() == pytest.approx(0.25 / 0.1 / confidence, rel=1e-4)
    # the other class has another band: (0, 1) is below both edges at 9, by 9/9 and 8/9
    assert detector(double(0, 1).view(1, 2, 1, 1)).item() == pytest.approx((1 + 8 / 9) / 0.1 / confidence, rel=1e-4)


def test_extremes_are_streamed_and_unseen_classes_get_those_of_all():
    net, x = pixel(), torch.tensor([[1, 0.5], [0.8, 0], [0.5, 0.2]], dtype=torch.float64).view(3, 2, 1, 1)
    low, high = extremes(net, x.split(1), ["layer1"], (1,))
    sums = gram_sums(x, (1,))
    torch.testing.assert_close(low[0], sums.amin(0).expand(2, 1, 2))  # class 1 is never predicted
    torch.testing.assert_close(high[0], sums.amax(0).expand(2, 1, 2))


def test_images_of_the_fit_are_inside_and_stripes_are_ood():
    net, x = small(), images(60)
    detector = fit_gram(net, x)
    held = torch.arange(60) % 10 == 1
    assert (detector(x[~held]) == 0).all()
    assert detector(stripes(5)).min() > 10 * detector(x[held]).max()
    # held-out deviations have mean 1 a layer, before the division by the confidence
    confidence = net(x[held]).softmax(1).amax(1, keepdim=True)
    used = (detector.latent(x[held]) * confidence).mean(0)
    torch.testing.assert_close(used[used > 0.5], torch.ones_like(used[used > 0.5]), rtol=1e-3, atol=0)
    torch.testing.assert_close(detector.latent(x).sum(1), detector(x))


def test_rows_do_not_influence_one_another_and_batches_do_not_matter():
    net, x = small(), images(30)
    detector, other = fit_gram(net, x, batch_size=7), fit_gram(net, x)
    torch.testing.assert_close(detector(images(6, 2)), other(images(6, 2)))
    for f in (detector, detector.latent, detector.soft, detector.soft_latent):
        whole = f(images(6, 2)).detach()
        torch.testing.assert_close(torch.cat([f(row[None]).detach() for row in images(6, 2)]), whole)


def test_surrogate_orders_inputs_like_the_score_and_always_has_a_gradient():
    detector = fit_gram(small(), images(60))
    x = torch.cat([images(40, 3), stripes(5), images(5, 4).flip(2).sqrt()])
    assert rank_correlation(detector.surrogate.score(x).detach(), detector(x)) > 0.95
    assert not detector.surrogate.exact
    inside = images(60)[:4].requires_grad_()  # score 0
    assert (detector(inside)[[0, 2, 3]] == 0).all()
    (gradient,) = torch.autograd.grad(detector.soft(inside).sum(), inside)
    assert gradient.isfinite().all() and (gradient.flatten(1).abs().amax(1) > 0).all()


def test_attack_through_the_surrogate_moves_the_score():
    detector, x = fit_gram(small(torch.float32), images(60, dtype=torch.float32)), stripes(4).float()
    moved = x
    for _ in range(20):
        z = moved.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(detector.surrogate.score(z).sum(), z)
        moved = (x + (moved - 0.01 * gradient.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    assert (detector(moved) < 0.7 * detector(x)).all()


def test_default_layers_are_those_a_pass_calls_once():
    assert gram_layers(small(), images(1))[:4] == ["stem.0", "stem.2", "layer1.conv1", "layer1.relu1"]
    assert "layer1" not in gram_layers(small(), images(1))  # the same tensor as layer1.relu2
    from torchvision.models import resnet18

    torch.manual_seed(0)
    found = gram_layers(Classifier(resnet18(num_classes=3).eval()), torch.rand(1, 3, 32, 32))
    # blocks call one ReLU twice; their outputs are recorded through the stages
    assert {"conv1", "relu", "layer1", "layer4", "layer2.0.downsample.0"} <= set(found)
    assert not any(name.endswith(".relu") for name in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"powers": ()}, r"`powers` must be whole numbers >= 1, got \[\]"),
        ({"powers": (0, 1)}, r"`powers` must be whole numbers >= 1, got \[0, 1\]"),
        ({"powers": (1, float("nan"))}, r"`powers` must be whole numbers >= 1, got \[1, nan\]"),
        ({"powers": (1, float("inf"))}, r"`powers` must be whole numbers >= 1, got \[1, inf\]"),
        ({"held_out": 0.7}, r"`held_out` must be in \(0, 0.5\], got 0.7"),
        ({"layers": ["nowhere"]}, "layers must name modules of the network, got 'nowhere'"),
    ],
)
def test_wrong_use_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        fit_gram(small(), images(4), **options)


def test_one_image_is_too_few():
    with pytest.raises(ValueError, match="`x` must have at least 2 images, got 1"):
        fit_gram(small(), images(1))
