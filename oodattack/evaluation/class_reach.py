"""Which classes a search should raise the logit of: those that come furthest, not those that are likeliest."""

import torch
from torch import Tensor

from oodattack.detector import Latent
from oodattack.evaluation.plan import is_blind
from oodattack.geometry import uphill
from oodattack.threat import ThreatModel

SHARE = 4  # of the queries at most one in so many is spent on the choice


def classes_to_raise(logits: Latent, x: Tensor, threat: ThreatModel) -> tuple[Tensor, int]:
    """The `threat.restarts` classes k with the largest f_k(x) + <grad f_k(x), delta_k>, the first first.

    delta_k is the steepest step that the threat model allows, so this is how far a logit comes to first order. What is
    likeliest before an attack says little of that: on noise the ninth of ten classes is raised as often as the third.

    Args:
        logits: f, (B, C, H, W) -> (B, K).
        x: clean images, shape (B, C, H, W).
        threat: limits, number of classes and queries. Where there are more classes than the choice may cost, only the
            likeliest are compared; where it may cost nothing, or no gradient is to be used, they are taken as they are.

    Returns:
        Classes, shape (B, min(threat.restarts, K)), and the queries a row that choosing them took: a gradient each.
    """
    with torch.no_grad():
        likeliest = logits(x).argsort(dim=1, descending=True)
    compared = likeliest[:, : max(threat.restarts, threat.queries // SHARE)]
    if compared.shape[1] <= threat.restarts or is_blind(threat):
        return compared[:, : threat.restarts], 0
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        f = logits(z).gather(1, compared)
        reached = [_reach(f, z, i, threat) for i in range(f.shape[1])]
    chosen = torch.stack(reached, dim=1).topk(threat.restarts, dim=1).indices
    return compared.gather(1, chosen), compared.shape[1]


def _reach(f: Tensor, x: Tensor, i: int, threat: ThreatModel) -> Tensor:
    """Where column i of `f` is after the steepest step, to first order; -inf where that is not a number. Shape (B,)."""
    (grad,) = torch.autograd.grad(f[:, i].sum(), x, retain_graph=True)
    grad, start = grad.nan_to_num(0.0, 0.0, 0.0), x.detach()
    moved = threat.project(start + threat.reach * uphill(grad, start, threat.norm), start) - start
    return (f[:, i].detach() + (grad * moved).flatten(1).sum(dim=1)).nan_to_num(-float("inf"))
