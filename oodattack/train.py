"""Training recipes and the one loop that runs them; trained networks are cached."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from oodattack import models, objectives
from oodattack.detector import Classifier

FORMAT = 1  # of the cache; raise it when the loop changes what it computes


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. SGD with Nesterov momentum 0.9; the learning rate rises, then falls (one cycle).

    Attributes:
        objective: a name in `objectives.OBJECTIVES`.
        start: objective of the recipe whose network is fine-tuned, None to train from scratch.
        epochs: passes over the ID training set.
        lr: peak learning rate.
        weight: factor of the auxiliary term: lambda of GQ, beta of the energy margin loss, lambda of outlier exposure.
        penalty: factor of GReg's gradient term, with the scaling of the authors' code.
        margin_id: m_in of the energy losses.
        margin_aux: m_aux of the energy losses.
        batch_size: ID images a step; as many auxiliary ones.
        weight_decay: of SGD.
        shift: largest random shift of ID images, pixels.
    """

    objective: str
    start: str | None = None
    epochs: int
    lr: float
    weight: float = 0.0
    penalty: float = 0.0
    margin_id: float = -25.0
    margin_aux: float = -7.0
    batch_size: int = 64
    weight_decay: float = 5e-4
    shift: int = 2


RECIPES = {
    recipe.objective: recipe
    for recipe in (
        Recipe(objective="ce", epochs=20, lr=0.1),
        Recipe(objective="gq", epochs=20, lr=0.1, weight=1.0),
        Recipe(objective="energy", start="ce", epochs=10, lr=0.01, weight=0.1),
        Recipe(objective="greg", start="ce", epochs=10, lr=0.01, weight=0.1, penalty=1.0),
        Recipe(objective="greg+", start="ce", epochs=10, lr=0.01, weight=0.1, penalty=1.0),
        Recipe(objective="oe", start="ce", epochs=10, lr=0.01, weight=0.5),
    )
}


class TrainingSet(NamedTuple):
    """What a recipe is fed with."""

    x: Tensor  # (N, C, H, W) ID images in [0, 1]
    y: Tensor  # (N,)
    aux: Tensor  # (M, C, H, W) auxiliary outliers in [0, 1]


class Trained(NamedTuple):
    """A network in eval mode, its parameters frozen, and its accuracy on held-out ID images."""

    network: nn.Module
    accuracy: float


def trained(
    objective: str,
    data: TrainingSet,
    held_out: tuple[Tensor, Tensor],
    *,
    model: str = "small",
    seed: int,
    cache: Path,
    progress: Callable[[str, int, int], None] | None = None,
) -> Trained:
    """The network of a recipe, from the cache or trained now.

    Args:
        objective: a name in `RECIPES`.
        data: training images.
        held_out: ID images (N, C, H, W) and labels (N,) for the accuracy.
        model: architecture, see `models.build`.
        seed: fixes initial weights, order, shifts and clustering.
        cache: folder of trained networks; made if missing.
        progress: called with (objective, epochs done, epochs in all).

    Raises:
        ValueError: an unknown objective, or a cache folder that cannot be written.
    """
    if objective not in RECIPES:
        raise ValueError(f"`objective` must be one of {', '.join(RECIPES)}, got {objective!r}. Pick one of them.")
    recipe = RECIPES[objective]
    network = _build(model, data, seed)
    path = cache / "networks" / f"{objective}-{_key(recipe, data, model, seed)}.safetensors"
    if not _load(network, path):
        if recipe.start is not None:
            start = trained(recipe.start, data, held_out, model=model, seed=seed, cache=cache, progress=progress)
            network.load_state_dict(start.network.state_dict())
        fit(network, recipe, data, seed=seed, progress=progress)
        _save(network, path)
    network.eval().requires_grad_(False)
    with torch.no_grad():
        right = torch.cat([network(x).argmax(dim=1) for x in held_out[0].split(512)]) == held_out[1]
    return Trained(network, right.double().mean().item())


def fit(
    network: nn.Module,
    recipe: Recipe,
    data: TrainingSet,
    *,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Run a recipe on a network, in place."""
    generator = Generator().manual_seed(seed)
    steps = -(-len(data.x) // recipe.batch_size)
    optimiser = torch.optim.SGD(
        network.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.lr, total_steps=recipe.epochs * steps)
    for epoch in range(recipe.epochs):
        batches = zip(
            torch.randperm(len(data.x), generator=generator).chunk(steps),
            outliers(network, recipe, data, steps, seed=seed, epoch=epoch, generator=generator),
            strict=True,
        )
        for rows, aux in batches:
            network.train()
            loss = total_loss(network, recipe, shifted(data.x[rows], recipe.shift, generator), data.y[rows], aux)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        if progress:
            progress(recipe.objective, epoch + 1, recipe.epochs)


def total_loss(network: nn.Module, recipe: Recipe, x: Tensor, y: Tensor, aux: Tensor) -> Tensor:
    """Cross-entropy plus the recipe's own term; one forward pass over ID and auxiliary images together.

    Both see the same batch statistics, as in the authors' code of GReg and outlier exposure.
    """
    needs_gradient = recipe.objective == "gq" or recipe.penalty > 0
    x, aux = x.requires_grad_(needs_gradient), aux.requires_grad_(needs_gradient)
    if recipe.objective in ("ce", "gq"):
        logits = network(x)
        loss = cross_entropy(logits, y)
        if recipe.objective == "gq":
            loss = loss + recipe.weight * objectives.gradient_quotient(
                logits, y, x, operand="logits", denominator="norm-of-sum"
            )
        return loss
    logits, logits_aux = network(torch.cat([x, aux])).split([len(x), len(aux)])
    loss = cross_entropy(logits, y)
    if recipe.objective == "oe":
        return loss + recipe.weight * objectives.outlier_exposure(logits_aux)
    energy_id, energy_aux = objectives.free_energy(logits), objectives.free_energy(logits_aux)
    margins = {"margin_id": recipe.margin_id, "margin_aux": recipe.margin_aux}
    loss = loss + recipe.weight * objectives.energy_margin(energy_id, energy_aux, **margins)
    if recipe.penalty > 0:
        loss = loss + recipe.penalty * objectives.gradient_penalty(
            energy_id, x, energy_aux, aux, scaling="code", **margins
        )
    return loss


def outliers(
    network: nn.Module, recipe: Recipe, data: TrainingSet, steps: int, *, seed: int, epoch: int, generator: Generator
) -> Iterator[Tensor]:
    """Auxiliary images for each step of an epoch: random ones, or for GReg+ two from each cluster of a pool.

    GReg+ clusters the pools of a fresh partition of the whole auxiliary set, so every image is considered in each.
    """
    if recipe.objective != "greg+":
        for _ in range(steps):
            yield data.aux[torch.randint(len(data.aux), (recipe.batch_size,), generator=generator)]
        return
    pools = objectives.epoch_pools(len(data.aux), steps, seed=(seed * 10_007 + epoch) % 2**32)
    for step, pool in enumerate(pools):
        network.eval()
        with torch.no_grad():
            seen = Classifier(network).run(data.aux[pool])
        network.train()
        chosen = objectives.choose(
            seen.features,
            objectives.free_energy(seen.logits),
            clusters=recipe.batch_size,
            seed=(seed * 10_007 + epoch * 1_009 + step) % 2**32,
        )
        yield data.aux[pool[chosen]]


def shifted(x: Tensor, most: int, generator: Generator) -> Tensor:
    """Each image moved by up to `most` pixels a side, zeros moving in."""
    size = x.shape[2:]
    padded = nn.functional.pad(x, [most] * 4)
    top, left = torch.randint(2 * most + 1, (2, len(x)), generator=generator).tolist()
    return torch.stack(
        [image[:, t : t + size[0], a : a + size[1]] for image, t, a in zip(padded, top, left, strict=True)]
    )


def _build(model: str, data: TrainingSet, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.build(model, channels=data.x.shape[1], classes=int(data.y.max()) + 1)


def _key(recipe: Recipe, data: TrainingSet, model: str, seed: int) -> str:
    """Twelve hex digits that change with everything that decides the weights."""
    recipes = [asdict(recipe), asdict(RECIPES[recipe.start]) if recipe.start else None]
    digest = hashlib.sha256(json.dumps([FORMAT, recipes, model, seed, torch.__version__]).encode())
    for part in data:
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _load(network: nn.Module, path: Path) -> bool:
    """Load cached weights; False where there are none that fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError):
        return False
    return True


def _save(network: nn.Module, path: Path) -> None:
    """Write weights under a temporary name, then rename: another process never reads half a file."""
    from safetensors.torch import save_file

    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(network.state_dict(), partial)
        os.replace(partial, path)
    except OSError as error:
        raise ValueError(
            f"{path.parent}: cache folder must be writable, got {error.strerror}. Point OODATTACK_CACHE to another one."
        ) from None
