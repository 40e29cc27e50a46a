"""One step of the loop, and the passes of the network within it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from oodattack.train.augmentation import augmented, noisy
from oodattack.train.exits import Exits, ExitsOf, exits_of
from oodattack.train.losses import Batch, Logits
from oodattack.train.recipe import Recipe
from oodattack.train.run import Run
from oodattack.train.training_set import TrainingSet, take

Precision = Literal["full", "bfloat16"]


def one_step(run: Run, net: Logits, recipe: Recipe, data: TrainingSet, rows: Tensor) -> None:
    """Draw a batch with these ID images, and go downhill."""
    like = next(run.network.parameters()).detach()
    rows_aux = run.outliers(run.network, run.epoch, run.step, run.generator)
    run.network.train()
    x = noisy(augmented(take(data.x, rows, like), recipe, run.generator), recipe.noise, run.generator)
    aux = take(data.aux, rows_aux, like) if data.aux is not None and recipe.needs_aux else None
    if aux is not None and recipe.augment_aux:
        aux = augmented(aux, recipe, run.generator)
    y = data.y[rows.to(data.y.device)].to(like.device)
    terms, shown = run.terms(net, Batch(x, y, aux), run.generator)
    loss = reduce(torch.add, terms.values())
    run.optimiser.zero_grad()
    loss.backward()
    run.optimiser.step()
    run.schedule.step()
    run.step += 1
    for name, value in {"loss": loss, **terms, **shown}.items():
        run.sums[name] = run.sums.get(name, 0) + value.detach().double()


def check_precision(precision: str) -> None:
    """Raise ValueError unless there is such a precision."""
    if precision not in get_args(Precision):
        raise ValueError(f"`precision` must be one of {', '.join(get_args(Precision))}, got {precision!r}. Pick one.")


def mixed(network: nn.Module, precision: Precision) -> Logits:
    """The network, or its passes in mixed precision with logits in float32; `Exits` where it has some."""
    if (every := exits_of(network)) is not None:
        return Exits(every if precision == "full" else lambda x: in_bfloat16(every, x))
    if precision == "full":
        return network
    return lambda x: in_bfloat16(lambda x: [network(x)], x)[0]


def in_bfloat16(f: ExitsOf, x: Tensor) -> list[Tensor]:
    """f(x) in mixed precision, in float32."""
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return [logits.float() for logits in f(x)]


@contextmanager
def own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Within, torch's global random state begins with `seed` and convolutions repeat themselves; then as before."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.manual_seed(seed)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            yield
