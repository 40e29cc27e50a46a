"""Attacks of other libraries on a detector, wrapped as the field wraps it: a classifier of two classes, OOD and ID.

Each library is imported when one of its attacks runs. Every attack gets a number of passes a row (a forward, or a
forward and a backward, of what it attacks) and spends them as it likes; `TwoLogits.passes` counts them.
"""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

OOD_CLASS = 0


class TwoLogits(nn.Module):
    """Logits [s - tau, tau - s] of a score s: class 0 is OOD, and wins where s is above the threshold.

    Args:
        score: (B, C, H, W) -> (B,), higher means more OOD.
        tau: the threshold.
        inside: module whose parameters tell a library where to put its tensors.
        pad: a third logit, far below both others, for losses that need three classes; None for none.
    """

    def __init__(
        self, score: Callable[[Tensor], Tensor], tau: float, *, inside: nn.Module, pad: float | None = None
    ) -> None:
        super().__init__()
        self.inside, self.tau, self.pad, self.passes = inside, tau, pad, 0
        self.score = score
        self.training = False  # not `eval()`: what is inside stays as it is

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, 2), with `pad` (B, 3)."""
        self.passes += len(x)
        margin = self.score(x) - self.tau
        logits = [margin, -margin]
        if self.pad is not None:
            logits.append(torch.full_like(margin, self.pad))
        return torch.stack(logits, dim=1)


def has_gradient(score: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether a score has a gradient at all, which every peer here needs."""
    z = x[:2].detach().clone().requires_grad_()
    with torch.enable_grad():
        out = score(z)
        return out.requires_grad and torch.autograd.grad(out.sum(), z, allow_unused=True)[0] is not None


class Ball(NamedTuple):
    """Where the attack may go."""

    norm: str  # "linf" or "l2"
    eps: float  # input units


Run = Callable[[TwoLogits, Tensor, Tensor, Ball, int], Tensor]  # model, x, labels, ball, passes a row -> x_adv


def torchattacks_pgd(model: TwoLogits, x: Tensor, y: Tensor, ball: Ball, passes: int) -> Tensor:
    """PGD or PGDL2, last iterate; steps of 2.5 eps / steps, as for every PGD here."""
    import torchattacks

    kind = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[ball.norm]
    return kind(model, eps=ball.eps, alpha=2.5 * ball.eps / passes, steps=passes)(x, y)


def torchattacks_apgd(model: TwoLogits, x: Tensor, y: Tensor, ball: Ball, passes: int) -> Tensor:
    """APGD as it is called: rows that the detector accepts are left alone, others returned where they crossed last."""
    return _torchattacks_apgd(model, ball, passes)(x, y)


def torchattacks_apgd_best(model: TwoLogits, x: Tensor, y: Tensor, ball: Ball, passes: int) -> Tensor:
    """APGD through its method `perturb`, which can go on to the largest loss."""
    return _torchattacks_apgd(model, ball, passes).perturb(x, y, best_loss=True)[1]


def _torchattacks_apgd(model: TwoLogits, ball: Ball, passes: int):
    import torchattacks

    norm = {"linf": "Linf", "l2": "L2"}[ball.norm]
    steps = max(passes - 2, 1)  # beside them: the clean call and the start
    return torchattacks.APGD(model, norm=norm, eps=ball.eps, steps=steps, seed=0)


def foolbox_pgd(model: TwoLogits, x: Tensor, y: Tensor, ball: Ball, passes: int) -> Tensor:
    """LinfPGD or L2PGD, last iterate."""
    import foolbox

    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[ball.norm]
    return _foolbox(kind, model, x, y, ball, passes)


def foolbox_adam_pgd(model: TwoLogits, x: Tensor, y: Tensor, ball: Ball, passes: int) -> Tensor:
    """LinfAdamPGD or L2AdamPGD, last iterate."""
    import foolbox

    kind = {"linf": foolbox.attacks.LinfAdamPGD, "l2": foolbox.attacks.L2AdamPGD}[ball.norm]
    return _foolbox(kind, model, x, y, ball, passes)


def _foolbox(kind, model: TwoLogits, x: Tensor, y: Tensor, ball: Ball, passes: int) -> Tensor:
    import foolbox

    steps = max(passes - 1, 1)  # it asks once more at the end
    seen = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    return kind(rel_stepsize=2.5 / steps, steps=steps)(seen, x, y, epsilons=ball.eps)[1]


def advlib_pgd(model: TwoLogits, x: Tensor, y: Tensor, ball: Ball, passes: int) -> Tensor:
    """pgd_linf: returns the last point that crossed the threshold, else the clean one. For linf only."""
    attacks = _advlib()
    if ball.norm != "linf":
        raise ValueError(f"adv-lib's PGD is for linf, got {ball.norm}.")
    return attacks.pgd_linf(model, x, y, ball.eps, steps=passes, absolute_step_size=2.5 * ball.eps / passes)


def advlib_apgd(model: TwoLogits, x: Tensor, y: Tensor, ball: Ball, passes: int) -> Tensor:
    """apgd with `best_loss`, cross-entropy. It then takes 100 steps whatever `n_iter` is: restarts fill the passes."""
    options = {"loss_function": "ce", "best_loss": True, "n_restarts": math.ceil(passes / 101)}
    return _advlib().apgd(model, x, y, ball.eps, NORMS[ball.norm], **options)


def advlib_apgd_long(model: TwoLogits, x: Tensor, y: Tensor, ball: Ball, passes: int) -> Tensor:
    """One run over all passes through its inner function, cross-entropy, best loss."""
    return _advlib_run(model, x, y, ball, passes, "ce")


def advlib_apgd_dlr(model: TwoLogits, x: Tensor, y: Tensor, ball: Ball, passes: int) -> Tensor:
    """The same with its default loss, the difference of logits ratio, on three logits: it does not saturate."""
    return _advlib_run(model, x, y, ball, passes, "dlr")


def _advlib_run(model: TwoLogits, x: Tensor, y: Tensor, ball: Ball, passes: int, loss: str) -> Tensor:
    _advlib()
    from adv_lib.attacks import auto_pgd

    radius = torch.full((len(x),), ball.eps, dtype=x.dtype, device=x.device)
    options = {"n_iter": max(passes - 1, 1), "loss_function": loss}
    return auto_pgd._apgd(model, x, y, radius, NORMS[ball.norm], **options)[0]


def _advlib():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it asks distutils for versions
        from adv_lib import attacks
    return attacks


NORMS = {"linf": math.inf, "l2": 2}


class Peer(NamedTuple):
    """A row of the table of peers."""

    run: Run
    padded: bool = False  # needs a third logit


PEERS = {
    "torchattacks-pgd": Peer(torchattacks_pgd),
    "torchattacks-apgd": Peer(torchattacks_apgd),
    "torchattacks-apgd-best": Peer(torchattacks_apgd_best),
    "foolbox-pgd": Peer(foolbox_pgd),
    "foolbox-adam-pgd": Peer(foolbox_adam_pgd),
    "advlib-apgd": Peer(advlib_apgd),
    "advlib-apgd-long": Peer(advlib_apgd_long),
    "advlib-apgd-dlr": Peer(advlib_apgd_dlr, padded=True),
}
