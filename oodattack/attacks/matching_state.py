"""What matching remembers of each row: its best point, the curvature seen on the way, and the phase it is in."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class State(NamedTuple):
    """What a row remembers. D numbers a row."""

    base: Tensor  # (B, D) best point
    loss: Tensor  # (B,) there, minus the value
    grad: Tensor  # (B, D) there, of the loss
    s: Tensor  # (B, M, D) steps, oldest first
    y: Tensor  # (B, M, D) changes of the gradient
    known: Tensor  # (B, M) pairs filled in
    share: Tensor  # (B,) of the quasi-Newton step that was tried last
    fails: Tensor  # (B,) trial points in a row that were no better
    age: Tensor  # (B,) queries since the window opened
    opened: Tensor  # (B,) loss when the window opened
    burst: Tensor  # (B,) queries of momentum left, 0 during L-BFGS
    velocity: Tensor  # (B, D)
    whole: Tensor  # (B,) queries of the burst in all
    first: Tensor  # (B,) length of the burst's first step
    fall: Tensor  # (B,) its last step over its first
    rounds: Tensor  # (B,) bursts so far
    vain: Tensor  # (B,) rounds in a row that were in vain
    entered: Tensor  # (B,) loss when the last burst began
    stopped: Tensor  # (B,) index of `STOPPED`
    left: int  # queries that the restart has left


def first_state(first: Tensor, memory: int, steps: int) -> State:
    """Before the first query: no point is known, no pair, and no phase is over.

    Args:
        first: the first point, shape (B, ...).
        memory: M.
        steps: queries of the restart.
    """
    flat = first.flatten(1)
    zero, no_pairs = torch.zeros_like(flat), flat.new_zeros(len(flat), memory, flat.shape[1])
    none = torch.zeros(len(flat), dtype=torch.long, device=flat.device)
    one, high = torch.ones_like(flat[:, 0]), torch.full_like(flat[:, 0], math.inf)
    return State(
        base=flat,
        loss=high,
        grad=zero,
        s=no_pairs,
        y=no_pairs,
        known=no_pairs[:, :, 0].bool(),
        share=one,
        fails=none,
        age=none,
        opened=high,
        burst=none,
        velocity=zero,
        whole=none + 1,
        first=one,
        fall=one,
        rounds=none,
        vain=none,
        entered=high,
        stopped=none,
        left=steps,
    )
