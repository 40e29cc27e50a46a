"""What is measured between epochs: accuracy, and how steep the energy is. Neither takes random numbers."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from oodattack.objectives import free_energy
from oodattack.train.training_set import take

MOST_IMAGES = 256  # images that the energy's gradient is measured on
CHUNK = 512  # images in a pass


class HeldOut(NamedTuple):
    """ID images that are not trained on."""

    x: Tensor  # (N, C, H, W), float in [0, 1] or uint8
    y: Tensor  # (N,)


def accuracy(network: nn.Module, held_out: HeldOut, *, classes: int) -> float:
    """Share of held-out images whose largest logit among the ID classes is the right one; leaves eval mode behind."""
    network.eval()
    x, y = held_out
    like = next(network.parameters())
    with torch.no_grad():
        rows = torch.arange(len(x)).split(CHUNK)
        found = torch.cat([network(take(x, part, like))[:, :classes].argmax(dim=1).cpu() for part in rows])
    return (found == y.cpu()).double().mean().item()


def energy_gradient(network: nn.Module, held_out: HeldOut, *, classes: int) -> float:
    """mean ||grad_x E||_2 of the first held-out images, E over the ID classes.

    In units of energy over those of pixels in [0, 1]. Leaves eval mode behind; parameters get no gradient.
    """
    network.eval()
    like = next(network.parameters())
    x = take(held_out.x, torch.arange(min(MOST_IMAGES, len(held_out.x))), like).requires_grad_()
    (gradient,) = torch.autograd.grad(free_energy(network(x)[:, :classes]).sum(), x)
    norms: Tensor = gradient.flatten(1).norm(dim=1)
    return norms.mean().item()
