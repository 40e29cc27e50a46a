"""Exits chosen by complexity, and their adjusted energies."""

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors.energy import energy
from oodattack.detectors.mood import MOOD, MOST_BITS, fit_mood
from oodattack.detectors.png_length import png_bits
from oodattack.models.exits import ExitNet
from oodattack.models.small import SmallResNet

DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])


class ThreeExits(nn.Module):
    """Exit i has logits (i m, -i m) of the mean m of an image, normalised by the classifier."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 2, bias=False)
        self.head.weight.data = torch.tensor([[1.0], [-1.0]])

    def exits(self, x):
        z = self.head(x.mean((2, 3)))
        return [0 * z, z, 2 * z]

    def forward(self, x):
        return self.exits(x)[-1]


def toy():
    return Classifier(ThreeExits().double().eval(), mean=[0.5], std=[0.25])


def deep(dtype=torch.float64):
    torch.manual_seed(0)
    network = ExitNet(1, 3, width=2, growth=1)
    for head in network.heads:
        nn.init.normal_(head.weight)
    return Classifier(network.to(dtype).eval(), mean=[0.5], std=[0.25])


def mixed(rows, dtype=torch.float64):
    """Images from flat to noise, every amount of it: all exits are chosen."""
    generator = torch.Generator().manual_seed(1)
    strength = torch.linspace(0, 1, rows, dtype=torch.float64).view(-1, 1, 1, 1)
    return (strength.square() * torch.rand(rows, 1, 32, 32, generator=generator, dtype=torch.float64)).to(dtype)


def flat(value):
    return torch.full((1, 1, 16, 16), value, dtype=torch.float64)


def test_energies_of_the_exits_by_hand():
    # mean 0.75: m = 1 after normalising; energies -log 2, -log(e + 1/e), -log(e^2 + 1/e^2), minus the means
    x, means = flat(0.75), torch.tensor([0.1, -0.2, 0.4], dtype=torch.float64)
    expected = [-math.log(2 * math.cosh(i)) - math.log(1) - m for i, m in enumerate((0.1, -0.2, 0.4))]
    bits = png_bits(x).item()
    for i, edges in enumerate(([bits, 99], [bits - 0.1, bits], [bits - 0.2, bits - 0.1])):  # an edge itself is below
        detector = MOOD(toy(), means, edges=edges)
        assert detector.chosen(x).tolist() == [i]
        assert detector(x).item() == pytest.approx(expected[i])


def test_score_is_the_energy_of_the_latent():
    detector, x = fit_mood(deep(), mixed(12)), mixed(20)
    assert detector.latent(x).shape == (20, 3)
    torch.testing.assert_close(detector(x), energy(detector.latent(x)), rtol=1e-12, atol=0)


def test_complex_images_go_deeper_and_all_exits_are_used():
    detector, x = fit_mood(deep(), mixed(12)), mixed(40)
    chosen = detector.chosen(x)
    assert chosen.unique().tolist() == [0, 1, 2, 3, 4]
    order = png_bits(x).argsort()
    assert (chosen[order].diff() >= 0).all()


def test_means_are_of_all_images_at_every_exit():
    net, x = deep(), mixed(30)
    detector = fit_mood(net, x, batch_size=7)
    logits = net.network.exits((x - 0.5) / 0.25)
    torch.testing.assert_close(detector.means, torch.stack([energy(z).mean() for z in logits]))
    whole = fit_mood(net, [(x[:20], torch.zeros(20)), (x[20:], torch.zeros(10))])
    torch.testing.assert_close(whole.means, detector.means)
    assert not detector.means.requires_grad and "means" in detector.state_dict()


def test_edges_are_those_of_the_authors_on_their_images():
    # i * 2700 / 5 bytes, 8 bits each, of 3 * 32 * 32 numbers
    detector = fit_mood(deep(), mixed(4))
    assert [edge * 3 * 32 * 32 / 8 for edge in detector.edges] == pytest.approx([540, 1080, 1620, 2160])
    assert MOST_BITS * 384 == pytest.approx(2700)
    assert fit_mood(toy(), mixed(4)).edges == pytest.approx((MOST_BITS / 3, 2 * MOST_BITS / 3))
    assert fit_mood(toy(), mixed(4), edges=[1, 2]).edges == (1, 2)


def test_ood_scores_higher():
    # the network is sure of bright images and undecided on those of the mean 0.5
    detector = fit_mood(toy(), flat(1.0).repeat(4, 1, 1, 1), edges=[0.1, 0.2])
    assert detector.chosen(flat(0.5)).tolist() == [2]
    assert detector(flat(0.5)) > detector(flat(1.0)) + 1 and detector(flat(1.0)).item() == pytest.approx(0)


@DTYPES
def test_scores_of_any_batch_and_nothing_left_behind(dtype, tolerance):
    detector, x = fit_mood(deep(dtype), mixed(20, dtype)), mixed(9, dtype)
    filled, state = x.clone(), {key: value.clone() for key, value in detector.state_dict().items()}
    for f in (detector, detector.latent):
        whole = f(x).detach()
        assert whole.dtype == dtype and whole.isfinite().all() and len(whole) == 9
        torch.testing.assert_close(torch.cat([f(r[None]).detach() for r in x]), whole, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(f(x.flip(0)).detach().flip(0), whole, rtol=tolerance, atol=tolerance)
        with torch.no_grad():
            assert torch.equal(f(x), whole) and not f(x).requires_grad
        z = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(f(z).sum(), z)
        assert gradient.isfinite().all() and (gradient.flatten(1).abs().amax(1) > 0).all()
    assert torch.equal(x, filled) and all(torch.equal(state[k], v) for k, v in detector.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in detector.parameters()) and not detector.training


@pytest.mark.parametrize("down", [True, False])
def test_attack_moves_the_score_either_way_across_exits(down):
    detector, x = fit_mood(deep(), mixed(20)), mixed(9)[2:7]
    clean = best = detector(x).detach()
    z, exits = x, [detector.chosen(x)]
    for _ in range(20):
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(detector(z).sum(), z)
        z = z.detach() - (1 if down else -1) * 0.01 * gradient.sign()
        z = (x + (z - x).clamp(-0.05, 0.05)).clamp(0, 1)
        exits.append(detector.chosen(z))
        best = torch.minimum(best, detector(z).detach()) if down else torch.maximum(best, detector(z).detach())
    assert (best < clean - 0.1).all() if down else (best > clean + 0.1).all()
    assert any(not torch.equal(exits[0], later) for later in exits)  # an exit is not held


def test_networks_and_edges_that_do_not_fit():
    means = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"`net` must have a network with a method `exits`, got SmallResNet\. Take"):
        fit_mood(Classifier(SmallResNet(1, 3, width=4).eval()), mixed(2))
    plain = nn.Sequential(OrderedDict(flat=nn.Flatten(), head=nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="method `exits`, got Sequential"):
        MOOD(Classifier(plain), means, edges=[1, 2])
    for edges in ([1], [2, 1]):
        with pytest.raises(ValueError, match=r"`edges` must be 2 ascending numbers, one fewer than exits, got \["):
            MOOD(toy(), means, edges=edges)
    with pytest.raises(ValueError, match="`net` must have 4 exits as `means` has, got 3"):
        MOOD(toy(), torch.zeros(4), edges=[1, 2, 3])(flat(0.5))
    with pytest.raises(ValueError, match="`x` must have images to fit on, got 0"):
        fit_mood(toy(), mixed(2)[:0])


def test_images_that_do_not_fit():
    net = Classifier(deep().network, mean=[0.5] * 3, std=[0.25] * 3)
    with pytest.raises(ValueError, match="`x` must have 3 channels as `mean` has, got 1"):
        fit_mood(net, mixed(2))
    with pytest.raises(ValueError, match="to be written as PNG"):
        fit_mood(toy(), mixed(2))(torch.rand(1, 2, 8, 8, dtype=torch.float64))
