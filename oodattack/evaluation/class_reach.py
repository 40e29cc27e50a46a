"""Which classes a search should raise the logit of: those that come furthest, not those that are likeliest."""

import torch
from torch import Tensor

from oodattack.detector import Latent
from oodattack.evaluation.plan import is_blind
from oodattack.geometry import nearest_allowed, uphill, wide
from oodattack.threat import ThreatModel

SHARE = 1 / 4  # of the queries, that the choice may take
FAR = 1e4  # beyond every ball and box


def classes_to_raise(logits: Latent, x: Tensor, threat: ThreatModel, *, least: int) -> tuple[Tensor, int]:
    """The `threat.restarts` classes k with the largest f_k(x) + max_delta <grad f_k(x), delta>, the first first.

    delta is what the threat model allows, so this is how far a logit comes to first order (on a patch, in one step).
    What is likeliest before an attack says little of that: on noise the ninth of ten classes is raised as often as the
    third.

    Args:
        logits: f, (B, C, H, W) -> (B, K).
        x: clean images, shape (B, C, H, W).
        threat: limits, number of classes and queries. Where there are more classes than the choice may cost, only the
            likeliest are compared; where it may cost nothing, or no gradient is to be used, they are taken as they are.
        least: queries that must be left for each class.

    Returns:
        Classes, shape (B, min(threat.restarts, K)), and the queries a row that choosing them took: a gradient each.
    """
    with torch.no_grad():
        likeliest = logits(x).argsort(dim=1, descending=True)
    can_pay = min(int(SHARE * threat.queries), threat.queries - least * threat.restarts)
    compared = likeliest[:, : max(threat.restarts, can_pay)]
    if compared.shape[1] <= threat.restarts or is_blind(threat):
        return compared[:, : threat.restarts], 0
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        f = logits(z).gather(1, compared)
        raised = [_raised(f, z, i, threat) for i in range(f.shape[1])]
    chosen = torch.stack(raised, dim=1).topk(threat.restarts, dim=1).indices
    return compared.gather(1, chosen), compared.shape[1]


def _raised(f: Tensor, x: Tensor, i: int, threat: ThreatModel) -> Tensor:
    """What column i of `f` can be raised to, to first order; -inf where that is not a number. Shape (B,)."""
    (grad,) = torch.autograd.grad(f[:, i].sum(), x, retain_graph=True)
    grad, start = grad.nan_to_num(0.0, 0.0, 0.0), x.detach()
    if threat.norm == "patch":
        allowed = threat.project(start + uphill(grad, start, threat.norm), start)
    else:  # the allowed point nearest to one far out along a direction is the furthest along that direction
        largest = grad.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(grad.dtype).tiny)
        far = start + FAR * grad / wide(largest, grad)
        allowed = nearest_allowed(far, start, threat.eps, threat.norm)
    return (f[:, i].detach() + (grad * (allowed - start)).flatten(1).sum(dim=1)).nan_to_num(-float("inf"))
