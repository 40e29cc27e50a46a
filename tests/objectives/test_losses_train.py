"""Every loss, on a toy problem: a few steps of SGD lower it, and its gradient reaches what it should, nothing else."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from oodattack import objectives as losses

DOUBLE = torch.float64
MARGINS = {"margin_id": -3.0, "margin_aux": -1.0}


class Toy(NamedTuple):
    """Two classes of points, outliers around them, and samples or images from somewhere else."""

    x: Tensor
    y: Tensor
    aux: Tensor
    other: Tensor


def toy():
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(24) % 2
    noise = lambda scale: scale * torch.randn(24, 3, generator=draw, dtype=DOUBLE)
    centres = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]], dtype=DOUBLE)
    return Toy(centres[y] + noise(0.2), y, noise(1.5) + 1, noise(0.5))


def network(outputs):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, outputs)).double()


def with_penalty(net, t, penalty):
    x, aux = t.x.clone().requires_grad_(), t.aux.clone().requires_grad_()
    return penalty(net(x), x, net(aux), aux)


def greg(f, x, f_aux, aux):
    energies = losses.free_energy(f), losses.free_energy(f_aux)
    margin = torch.cat(energies).detach().median().item()
    return losses.gradient_penalty(
        energies[0], x, energies[1], aux, margin_id=margin, margin_aux=margin + 1e-9, scaling="paper"
    )


def energy(net, t):
    return losses.energy_margin(losses.free_energy(net(t.x)), losses.free_energy(net(t.aux)), **MARGINS)


SHARE = torch.tensor(0.4, dtype=DOUBLE)
# name: (outputs of the network, loss of it on the toy problem)
LOSSES = {
    "energy": (2, lambda net, t: cross_entropy(net(t.x), t.y) + 0.1 * energy(net, t)),
    "greg": (2, lambda net, t: cross_entropy(net(t.x), t.y) + 0.1 * energy(net, t) + with_penalty(net, t, greg)),
    "oe": (2, lambda net, t: cross_entropy(net(t.x), t.y) + 0.5 * losses.outlier_exposure(net(t.aux))),
    "oe + gradient": (
        2,
        lambda net, t: (
            cross_entropy(net(t.x), t.y)
            + 0.5 * losses.outlier_exposure(net(t.aux))
            + with_penalty(
                net, t, lambda *a: losses.uniform_gradient_penalty(*a, margin_id=0.1, margin_aux=0.05, scaling="paper")
            )
        ),
    ),
    "openmix": (
        3,
        lambda net, t: losses.openmix(net(t.x), t.y, net(losses.mix(t.x, t.aux, SHARE)), SHARE, weight=1.0),
    ),
    "dos": (3, lambda net, t: losses.outlier_class(net(t.x), t.y, net(t.aux), weight=1.0)),
    "confident": (2, lambda net, t: losses.confident(net(t.x), t.y, net(t.other), weight=1.0)),
    "jem": (2, lambda net, t: losses.joint_energy(net(t.x), t.y, net(t.other), weight=1.0)),
}


@pytest.mark.parametrize(("outputs", "loss"), LOSSES.values(), ids=LOSSES)
def test_a_few_steps_lower_the_loss(outputs, loss):
    net, t = network(outputs), toy()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    before = loss(net, t).item()
    for _ in range(15):
        optimiser.zero_grad()
        loss(net, t).backward()
        optimiser.step()
    assert loss(net, t).item() < before - 0.01


@pytest.mark.parametrize(("outputs", "loss"), LOSSES.values(), ids=LOSSES)
def test_every_weight_gets_a_gradient(outputs, loss):
    net = network(outputs)
    loss(net, toy()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


# loss: the fields of the toy problem that it depends on
USES = {
    "energy": {"x", "aux"},
    "greg": {"x", "aux"},
    "oe": {"x", "aux"},
    "oe + gradient": {"x", "aux"},
    "openmix": {"x", "aux"},
    "dos": {"x", "aux"},
    "confident": {"x", "other"},
    "jem": {"x", "other"},
}


@pytest.mark.parametrize("name", LOSSES)
def test_depends_on_its_own_inputs_only(name):
    outputs, loss = LOSSES[name]
    net, t = network(outputs), toy()
    value = loss(net, t).item()
    for field in ("x", "aux", "other"):
        other = loss(net, t._replace(**{field: getattr(t, field) + 0.1})).item()
        assert (other != value) == (field in USES[name]), field


def test_samples_and_images_carry_no_gradient_to_where_they_came_from():
    torch.manual_seed(0)
    net, source, t = network(2), nn.Linear(3, 3).double(), toy()
    losses.confident(net(t.x), t.y, net(source(t.other).detach()), weight=1.0).backward()
    assert all(p.grad is None for p in source.parameters())
    replay = losses.start_replay(24, t.x, seed=0)
    net.zero_grad()
    x_q = losses.langevin_samples(
        lambda v: net(v).logsumexp(dim=1), replay, 24, steps=2, step_size=0.1, noise=0.01, restart=0.0
    )
    assert all(p.grad is None for p in net.parameters()) and not x_q.requires_grad
    losses.joint_energy(net(t.x), t.y, net(x_q), weight=1.0).backward()
    assert all(p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("form", ["minimax", "non-saturating"])
def test_a_few_steps_lower_both_losses_of_the_game(form):
    torch.manual_seed(0)
    g, d, f = (nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, out)).double() for out in (3, 1, 2))
    t = toy()
    turns = (
        (d, lambda: losses.discriminator_loss(d(t.x)[:, 0], d(g(t.other).detach())[:, 0])),
        (g, lambda: losses.generator_loss(d(g(t.other))[:, 0], f(g(t.other)), weight=1.0, form=form)),
    )
    for net, loss in turns:
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
        before = loss().item()
        for _ in range(15):
            optimiser.zero_grad()
            loss().backward()
            optimiser.step()
        assert loss().item() < before - 0.01
