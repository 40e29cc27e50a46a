"""Inputs of the same latent for an encoder that is linear: section 2.2 of Liang et al., "An Algorithm for
Out-of-Distribution Attack to Neural Network Encoder", arXiv:2009.08016.

No search is needed: whoever adds to an image what the encoder maps to zero leaves the latent alone. An encoder that is
not linear has such directions at every point, but they turn as one moves along: there, match its latent instead.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Encoder = Callable[[Tensor], Tensor]
ROUNDS = 200  # of Newton's method at most; ten do on most images
HALVINGS = 40  # of a step
RIDGE = 1e-10  # keeps steps finite where hardly a pixel is off the walls


def null_space(encoder: Encoder, x_id: Tensor, x_ood: Tensor, *, distance: float) -> Tensor:
    """x' = x_id + sum_i lambda_i eta_i with W eta_i = 0: the same latent at any distance, section 2.2.

    The lambda_i are those of x_ood - x_id, times one factor a row: x' - x_id is its part in the null space,
    (I - W^+ W)(x_ood - x_id), at the length that is asked for. No heed is paid to [0, 1], and what leaves it is no
    image: `same_latent` makes one.

    Args:
        encoder: z = W x + b, (B, C, H, W) -> (B, K).
        x_id: images whose latent is wanted, shape (B, C, H, W).
        x_ood: images to move towards, same shape.
        distance: ||x' - x_id||_2 of every row, >= 0.

    Returns:
        x', shape of `x_id`, unbounded.

    Raises:
        ValueError: an encoder that is not linear, or rows that the encoder tells apart in all they differ in.
    """
    base = row_space(encoder, x_id, x_ood)
    off = (x_ood - x_id).flatten(1).double()
    free = off - off @ base.mT @ base
    length = torch.linalg.vector_norm(free, dim=1, keepdim=True)
    if (length <= 1e-9 * torch.linalg.vector_norm(off, dim=1, keepdim=True)).any():
        raise ValueError("`x_ood` must differ from `x_id` in the null space, got a row that does not. Take another.")
    moved: Tensor = x_id + (distance * free / length).view_as(x_id).to(x_id)
    return moved


def same_latent(encoder: Encoder, x_id: Tensor, x_ood: Tensor) -> Tensor:
    """argmin_x' ||x' - x_ood||_2 subject to W x' = W x_id and 0 <= x' <= 1: the nearest image of the same latent.

    Without the walls it is x_ood + W^+ (W x_id - W x_ood), the construction of section 2.2 with all lambda_i as they
    are. With them x' = clip(x_ood + W^T m), and Newton's method finds the multipliers m, one row at a time. How far x'
    is from x_id is for the images to say: where most pixels of x_id are at a wall, it may not be far.

    Args:
        encoder: z = W x + b, (B, C, H, W) -> (B, K).
        x_id: images whose latent is wanted, shape (B, C, H, W), values in [0, 1].
        x_ood: images to stay close to, same shape.

    Returns:
        x', shape of `x_id`, in [0, 1]; the latent is matched to the rounding of its type.

    Raises:
        ValueError: an encoder that is not linear, or `x_id` outside [0, 1].
        FloatingPointError: Newton's method does not arrive.

    Differs from the paper: images stay images; the paper lets the noise grow as it likes.
    """
    if x_id.min() < 0 or x_id.max() > 1:
        raise ValueError(f"`x_id` must be in [0, 1], got {x_id.min():g} to {x_id.max():g}. Divide by 255.")
    base = row_space(encoder, x_id, x_ood)
    rows = zip(x_id.flatten(1).double(), x_ood.flatten(1).double(), strict=True)
    return torch.stack([nearest(base, base @ one, other) for one, other in rows]).view_as(x_id).to(x_id)


def nearest(base: Tensor, target: Tensor, start: Tensor) -> Tensor:
    """argmin_x ||x - start|| subject to base x = target and 0 <= x <= 1.

    The dual is convex, h(m) = (||v||^2 - ||v - clip v||^2) / 2 - m target at v = start + base^T m; its gradient is
    base clip(v) - target, and zero at the solution.

    Args:
        base: orthonormal rows, shape (K, D), float64.
        target: shape (K,); an x in the box must have it.
        start: shape (D,).

    Raises:
        FloatingPointError: the constraint is not met after `ROUNDS` steps.
    """
    m = start.new_zeros(len(base))
    tolerance = 1e-12 * (1 + target.abs().max()) if len(target) else 0.0

    def value(m: Tensor) -> Tensor:
        v = start + m @ base
        return (v.square().sum() - (v - v.clamp(0, 1)).square().sum()) / 2 - m @ target

    for _ in range(ROUNDS):
        v = start + m @ base
        gradient = base @ v.clamp(0, 1) - target
        if len(base) == 0 or gradient.abs().max() <= tolerance:
            return v.clamp(0, 1)
        inside = base[:, (v > 0) & (v < 1)]
        curvature = inside @ inside.mT + RIDGE * torch.eye(len(base)).to(base)
        step = -torch.linalg.solve(curvature, gradient)
        share, here = 1.0, value(m)
        rounding = 1e-14 * (1 + here.abs())  # near the solution h changes by less
        for _ in range(HALVINGS):
            if value(m + share * step) <= here + 1e-4 * share * (gradient @ step) + rounding:
                break
            share /= 2
        m = m + share * step
    raise FloatingPointError(f"the latent must be met, got {gradient.abs().max():g} off. Take another `x_ood`.")


def row_space(encoder: Encoder, x_id: Tensor, x_ood: Tensor) -> Tensor:
    """Orthonormal rows that span the rows of W, shape (rank, C H W), float64.

    Raises:
        ValueError: an encoder that is not linear.
    """
    origin = torch.zeros_like(x_id[:1])
    with torch.enable_grad():
        w = torch.autograd.functional.jacobian(lambda u: encoder(u)[0], origin).flatten(1).double()
    with torch.no_grad():
        b = encoder(origin)[0].double()
        for x in (x_id, x_ood):
            z, expected = encoder(x).double(), x.flatten(1).double() @ w.mT + b
            room = 100 * torch.finfo(x.dtype).eps * (1 + x[0].numel() ** 0.5 * w.abs().max())
            if not (z - expected).abs().max() <= room:
                raise ValueError("`encoder` must be linear, z = W x + b, got another. Match its latent with a search.")
    _, scale, basis = torch.linalg.svd(w, full_matrices=False)
    least = torch.finfo(x_id.dtype).eps * max(w.shape) * scale.amax() if len(scale) else 0.0
    rows: Tensor = basis[scale > least]
    return rows
