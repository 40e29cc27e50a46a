"""The loss of each objective on a batch, as terms that are added up.

ID and auxiliary images go through the network together and share batch statistics, as in the authors' code of GReg and
outlier exposure.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from oodattack import objectives
from oodattack.models.exits import exits_loss
from oodattack.objectives.gradient_quotient import Denominator, Operand
from oodattack.train.exits import Exits
from oodattack.train.recipe import Quotient, Recipe

SHARE_OF_MIXTURES = 10  # a of Beta(a, a), authors' code of OpenMix
DETECTED = (0.5, 0.1)  # shares of log C, the greatest divergence from uniform, for `uniform_gradient_penalty`; ours
QUOTIENTS: dict[Quotient, tuple[Operand, Denominator]] = {
    "code": ("logits", "norm-of-sum"),
    "paper": ("softmax", "sum-of-norms"),
}

Logits = Callable[[Tensor], Tensor]
Terms = dict[str, Tensor]  # they add up to the loss


class Batch(NamedTuple):
    """A step's images; ID and auxiliary ones need not be as many."""

    x: Tensor  # (B, C, H, W)
    y: Tensor  # (B,)
    aux: Tensor | None  # (M, C, H, W)


def batch_terms(net: Logits, recipe: Recipe, batch: Batch, generator: Generator) -> Terms:
    """Cross-entropy "ce" and the recipe's own terms, weights included.

    Args:
        net: images -> logits, in training mode; of `Exits` all are trained.
        recipe: of an objective that keeps no state of its own.
        batch: with outliers where the objective needs them.
        generator: of the share of OpenMix.
    """
    if recipe.objective == "ce":
        if isinstance(net, Exits):
            return {"ce": exits_loss(net, batch.x, batch.y)}
        return {"ce": cross_entropy(net(batch.x), batch.y)}
    if recipe.objective == "gq":
        x = batch.x.requires_grad_()
        logits = net(x)
        ce = cross_entropy(logits, batch.y)
        operand, denominator = QUOTIENTS[recipe.quotient]
        quotient = objectives.gradient_quotient(logits, batch.y, x, operand=operand, denominator=denominator)
        return {"ce": ce, "quotient": recipe.weight * quotient}
    if batch.aux is None:
        raise ValueError(f"`aux` must hold auxiliary outliers for {recipe.objective}, got none. Pass some.")
    if recipe.objective == "openmix":
        return openmix_terms(net, recipe, batch.x, batch.y, batch.aux, generator)
    x, aux = batch.x.requires_grad_(recipe.penalty > 0), batch.aux.requires_grad_(recipe.penalty > 0)
    logits, logits_aux = net(torch.cat([x, aux])).split([len(x), len(aux)])
    if recipe.objective == "oe":
        return oe_terms(recipe, logits, x, batch.y, logits_aux, aux)
    if recipe.objective == "dos":
        return dos_terms(recipe, logits, x, batch.y, logits_aux, aux)
    return energy_terms(recipe, logits, x, batch.y, logits_aux, aux)


def energy_terms(recipe: Recipe, logits: Tensor, x: Tensor, y: Tensor, logits_aux: Tensor, aux: Tensor) -> Terms:
    """Squared hinges on the energy, and the norm of its gradient."""
    terms = {"ce": cross_entropy(logits, y)}
    energy_id, energy_aux = objectives.free_energy(logits), objectives.free_energy(logits_aux)
    margins = {"margin_id": recipe.margin_id, "margin_aux": recipe.margin_aux}
    terms["energy"] = recipe.weight * objectives.energy_margin(energy_id, energy_aux, **margins)
    if recipe.penalty > 0:
        penalty = objectives.gradient_penalty(energy_id, x, energy_aux, aux, scaling="code", **margins)
        terms["gradient"] = recipe.penalty * penalty
    return terms


def oe_terms(recipe: Recipe, logits: Tensor, x: Tensor, y: Tensor, logits_aux: Tensor, aux: Tensor) -> Terms:
    """Cross-entropy to uniform, and the gradient of the divergence from it."""
    terms = {"ce": cross_entropy(logits, y), "uniform": recipe.weight * objectives.outlier_exposure(logits_aux)}
    if recipe.penalty > 0:
        margin_id, margin_aux = (share * math.log(logits.shape[1]) for share in DETECTED)
        terms["gradient"] = recipe.penalty * objectives.uniform_gradient_penalty(
            logits, x, logits_aux, aux, margin_id=margin_id, margin_aux=margin_aux, scaling="code"
        )
    return terms


def dos_terms(recipe: Recipe, logits: Tensor, x: Tensor, y: Tensor, logits_aux: Tensor, aux: Tensor) -> Terms:
    """Cross-entropy to the outlier class, and the gradients of both cross-entropies, of all rows."""
    terms = rest_of(objectives.outlier_class(logits, y, logits_aux, weight=recipe.weight), logits, y, "outlier class")
    if recipe.penalty > 0:
        absent = torch.full((len(aux),), logits.shape[1] - 1, device=aux.device)
        terms["gradient"] = recipe.penalty * objectives.score_gradient_penalty(
            cross_entropy(logits, y, reduction="none"),
            x,
            recipe.weight * cross_entropy(logits_aux, absent, reduction="none"),
            aux,
            keep_id=torch.ones_like(y, dtype=torch.bool),
            keep_aux=torch.ones_like(absent, dtype=torch.bool),
            scaling="code",
        )
    return terms


def openmix_terms(net: Logits, recipe: Recipe, x: Tensor, y: Tensor, aux: Tensor, generator: Generator) -> Terms:
    """ID images mixed with as many outliers, to both classes in their shares."""
    share = objectives.mixing_share(generator, concentration=SHARE_OF_MIXTURES)
    mixed = objectives.mix(x, aux[: len(x)], share)
    logits, logits_mixed = net(torch.cat([x, mixed])).chunk(2)
    return rest_of(objectives.openmix(logits, y, logits_mixed, share, weight=recipe.weight), logits, y, "mixtures")


def rest_of(total: Tensor, logits: Tensor, y: Tensor, name: str) -> Terms:
    """A loss that contains the cross-entropy, told apart into that and the rest."""
    ce = cross_entropy(logits, y)
    return {"ce": ce, name: total - ce}
