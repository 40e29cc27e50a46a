"""The replay buffer of JEM, where Langevin chains begin and end: Grathwohl et al., "Your Classifier is Secretly an
Energy Based Model and You Should Treat it Like One", ICLR 2020, arXiv:1912.03263."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from oodattack.objectives.langevin import langevin


class Replay(NamedTuple):
    """Where chains go on from. All of it can be saved: see `replay_state`.

    Attributes:
        images: where earlier chains ended, shape (M, ...); changed in place by `langevin_samples`.
        generator: source of all randomness.
    """

    images: Tensor
    generator: Generator


def start_replay(size: int, like: Tensor, *, seed: int) -> Replay:
    """A buffer of uniform noise in [0, 1).

    Args:
        size: number of images M >= 1; 10,000 in the authors' code.
        like: inputs, shape (B, ...), whose row shape, dtype and device the buffer takes.
        seed: of the buffer and of all chains that use it.

    Raises:
        ValueError: `size` < 1.
    """
    if size < 1:
        raise ValueError(f"`size` must be >= 1, got {size}. The authors keep 10,000 images.")
    generator = Generator().manual_seed(seed)
    return Replay(_uniform((size, *like.shape[1:]), like, generator), generator)


def langevin_samples(
    log_density: Callable[[Tensor], Tensor],
    replay: Replay,
    n: int,
    *,
    steps: int,
    step_size: float,
    noise: float,
    restart: float,
) -> Tensor:
    """x_q: the ends of n chains that begin in the buffer, or with chance rho in fresh noise; they go back into it.

    The authors work on inputs in [-1, 1] with 20 steps of size 1, noise 0.01 and rho 0.05. The same chain on inputs in
    [0, 1] has step size 0.25 and noise 0.005, since x = (u + 1) / 2 halves the noise and divides the gradient's effect
    by 4.

    Args:
        log_density: log p(x) up to a constant, (B, ...) -> (B,), the logsumexp of the logits in JEM; rows must not
            influence one another, so put a network with batch norm into eval mode.
        replay: the buffer; its rows that were used are overwritten, and its generator advances.
        n: number of chains, 1..M.
        steps: of each chain, >= 1.
        step_size: alpha > 0, see `langevin`.
        noise: sigma >= 0, see `langevin`.
        restart: rho in [0, 1], chance that a chain begins in uniform noise in [0, 1).

    Returns:
        Samples, shape (n, ...), on the device of the buffer, without a graph. They are not clipped to [0, 1].

    Raises:
        ValueError: a number out of range.
        FloatingPointError: a chain leaves the finite numbers; the buffer is left as it was.

    Differs from the authors' code: a buffer row is in one chain at most; theirs draws rows with repeats.
    """
    if not 1 <= n <= len(replay.images):
        raise ValueError(
            f"`n` must be in 1..{len(replay.images)}, the size of the buffer, got {n}. Enlarge the buffer."
        )
    if not 0 <= restart <= 1:
        raise ValueError(f"`restart` must be in [0, 1], got {restart}. It is a probability.")
    images, generator = replay
    rows = torch.randperm(len(images), generator=generator)[:n].to(images.device)
    afresh = (torch.rand(n, generator=generator) < restart).to(images.device)
    fresh = _uniform((n, *images.shape[1:]), images, generator)
    start = torch.where(afresh.view(-1, *[1] * (images.ndim - 1)), fresh, images[rows])
    end = langevin(log_density, start, steps=steps, step_size=step_size, noise=noise, generator=generator)
    if bad := int((~end.flatten(1).isfinite().all(dim=1)).sum()):
        raise FloatingPointError(
            f"chains must stay finite, got {bad} of {n} that did not. Lower the learning rate or `step_size`."
        )
    images[rows] = end
    return end


def replay_state(replay: Replay) -> dict[str, Tensor]:
    """Everything in a buffer as tensors, for a checkpoint: `images`, and `generator` as bytes."""
    return {"images": replay.images.clone(), "generator": replay.generator.get_state()}


def restore_replay(state: Mapping[str, Tensor]) -> Replay:
    """The buffer that `replay_state` described; chains go on with the numbers that they would have had.

    Raises:
        ValueError: a tensor is missing.
    """
    if missing := {"images", "generator"} - state.keys():
        raise ValueError(f"`state` must have images and generator, got no {sorted(missing)}. Save all of the buffer.")
    generator = Generator()
    generator.set_state(state["generator"].cpu())
    return Replay(state["images"].clone(), generator)


def _uniform(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    """Numbers in [0, 1) with the dtype and device of `like`."""
    return torch.rand(shape, generator=generator, dtype=like.dtype).to(like.device)
