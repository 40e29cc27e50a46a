import math

import pytest
import torch
from torch import nn

from oodattack.objectives.energy_margin import free_energy
from oodattack.objectives.jem import joint_energy
from oodattack.objectives.replay import langevin_samples, start_replay

DOUBLE = torch.float64


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.5])
def test_by_hand(weight):
    # p(y) = 1/4, LSE f = log 4; LSE f(x_q) = log 8: log 4 - weight * (log 4 - log 8) = log 2 * (2 + weight)
    logits = torch.tensor([[1.0, 3.0]], dtype=DOUBLE).log()
    logits_q = torch.tensor([[2.0, 6.0], [7.0, 1.0]], dtype=DOUBLE).log()
    found = joint_energy(logits, torch.tensor([0]), logits_q, weight=weight)
    assert found.item() == pytest.approx(math.log(2) * (2 + weight), rel=1e-12)


def test_lowers_the_energy_of_inputs_and_raises_that_of_samples():
    draw = torch.Generator().manual_seed(0)
    logits, logits_q = (torch.randn(n, 3, generator=draw, dtype=DOUBLE).requires_grad_() for n in (4, 5))
    y = torch.tensor([0, 1, 2, 0])
    slopes = torch.autograd.grad(joint_energy(logits, y, logits_q, weight=1.0), (logits, logits_q))
    # (softmax - label) / N from the cross-entropy, -softmax / N from the density: together -label / N
    torch.testing.assert_close(slopes[0], -nn.functional.one_hot(y, 3).to(DOUBLE) / 4)
    torch.testing.assert_close(slopes[1], logits_q.softmax(dim=1) / 5)


def test_training_makes_energies_tell_data_from_noise():
    # two classes at (0.2, 0.2) and (0.8, 0.8); everywhere else in the square should get higher energies
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 2))
    y = torch.arange(64) % 2
    x = torch.tensor([[0.2, 0.2], [0.8, 0.8]])[y] + 0.03 * torch.randn(64, 2)
    replay = start_replay(256, x, seed=0)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    density = lambda v: net(v).logsumexp(dim=1)
    for _ in range(100):
        x_q = langevin_samples(density, replay, 64, steps=4, step_size=2e-3, noise=0.03, restart=0.1)
        loss = joint_energy(net(x), y, net(x_q), weight=1.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        noise = torch.rand(500, 2)
        noise = noise[torch.cdist(noise, torch.tensor([[0.2, 0.2], [0.8, 0.8]])).min(dim=1).values > 0.25]
        in_order = free_energy(net(noise))[:, None] > free_energy(net(x))
        assert (net(x).argmax(dim=1) == y).all()
    assert in_order.double().mean() > 0.9  # AUROC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.tensor([0])}, r"`logits` and `y` must have shapes \(N, C\) and \(N,\)"),
        ({"logits": torch.zeros(2, 1)}, r"got \(2, 1\) and \(2,\)"),
        ({"logits_q": torch.zeros(2, 4)}, r"`logits_q` must have shape \(M, 3\) with M >= 1, got \(2, 4\)"),
        ({"logits_q": torch.zeros(0, 3)}, r"`logits_q` must have shape \(M, 3\)"),
        ({"weight": -1.0}, "`weight` must be >= 0, got -1"),
    ],
)
def test_wrong_use_is_named(change, message):
    arguments = {"logits": torch.zeros(2, 3), "y": torch.tensor([0, 1]), "logits_q": torch.zeros(2, 3), "weight": 1.0}
    with pytest.raises(ValueError, match=message):
        joint_energy(**arguments | change)
