"""Bounds of scores that are distances of penultimate features."""

import torch
from torch import Tensor

from oodattack.bounds.backward import linear_bounds
from oodattack.bounds.ball import Interval
from oodattack.bounds.reach import Reach
from oodattack.detectors.knn import neighbours
from oodattack.detectors.mahalanobis import Gaussians

SHORTEST = 1e-12  # length below which `normalize` does not make a vector longer


def mahalanobis_bounds(found: Reach, gaussians: Gaussians) -> Interval:
    """min_k (z - mu_k)^T P (z - mu_k), shapes (B,).

    With P = R^T R it is the squared distance of v = R z from R mu_k: entry by entry on a box of v; and from below by
    its tangent at the centre of the ball, one linear function of z. What P <= R^T R adds comes off again.
    """
    root, excess = square_root(gaussians.precision)
    at = found.graph.features
    box = linear_bounds(found, root, at)
    v, means = found.values[at].flatten(1) @ root.mT, gaussians.means @ root.mT
    low, high = box.lower[:, None] - means, box.upper[:, None] - means  # (B, K, D)
    above = low.abs().maximum(high.abs()).square().sum(dim=2)
    below = low.maximum(-high).clamp(min=0).square().sum(dim=2)
    off = v[:, None] - means
    slopes = 2 * off @ root
    tangent = linear_bounds(found, slopes, at).lower - (off * (v[:, None] + means)).sum(dim=2)
    below = below.maximum(tangent)
    if excess > 0:
        z = linear_bounds(found, torch.eye(root.shape[1], dtype=root.dtype, device=root.device), at)
        far = (z.upper[:, None] - gaussians.means).abs().maximum((z.lower[:, None] - gaussians.means).abs())
        below = below - excess * far.square().sum(dim=2)
    return Interval(below.amin(dim=1), above.amin(dim=1))


def square_root(precision: Tensor) -> tuple[Tensor, Tensor]:
    """R and c >= 0 with P <= R^T R <= P + c I, for a symmetric P; c is 0 where P has no negative eigenvalue,
    rounding aside."""
    values, vectors = torch.linalg.eigh((precision + precision.mT) / 2)
    root: Tensor = values.clamp(min=0).sqrt()[:, None] * vectors.mT
    return root, (-values.min() - 1e-14 * values.abs().max()).clamp(min=0)


def length_bounds(found: Reach, rows: Tensor, origin: Tensor, at: int) -> Interval:
    """||A (h - o)||_2 for a matrix A of `rows` (S, D) and o (D,), shapes (B,): entry by entry, or by the tangent."""
    box = linear_bounds(found, rows, at)
    off = (found.values[at].flatten(1) - origin) @ rows.mT
    low, high = box.lower - rows @ origin, box.upper - rows @ origin
    below = torch.linalg.vector_norm(low.maximum(-high).clamp(min=0), dim=1)
    along = off / torch.linalg.vector_norm(off, dim=1, keepdim=True).clamp(min=1e-300)
    joint = linear_bounds(found, (along @ rows)[:, None], at).lower[:, 0] - along @ (rows @ origin)
    return Interval(below.maximum(joint), torch.linalg.vector_norm(low.abs().maximum(high.abs()), dim=1))


def knn_bounds(found: Reach, bank: Tensor, k: int) -> Interval:
    """||u - b_(k)||^2 of the normalised features u = z / ||z|| and the k-th nearest row of a bank; shapes (B,).

    The root is 1-Lipschitz in u, and u turns by no more than the box of z allows; or all rows of the bank are bounded
    one by one. Whichever is better.
    """
    at = found.graph.features
    z = found.values[at].flatten(1)
    box = linear_bounds(found, torch.eye(z.shape[1], dtype=z.dtype, device=z.device), at)
    length = torch.linalg.vector_norm(z, dim=1)
    longest = torch.linalg.vector_norm(box.lower.abs().maximum(box.upper.abs()), dim=1)
    shortest = torch.linalg.vector_norm(box.lower.maximum(-box.upper).clamp(min=0), dim=1)
    along = linear_bounds(found, (z / length.clamp(min=SHORTEST)[:, None])[:, None], at).lower[:, 0]
    shortest = shortest.maximum(along)
    sound = (shortest > SHORTEST) & (length > SHORTEST)
    far = torch.linalg.vector_norm((box.upper - z).maximum(z - box.lower), dim=1)
    sine = (far / length.clamp(min=SHORTEST)).clamp(max=1)
    by_radius = torch.where(far < length, (1 - sine.square()).sqrt(), -1.0)
    by_plane = (along / longest.where(along > 0, shortest).clamp(min=SHORTEST)).clamp(min=-1)  # <z', u> may be negative
    turned = (2 - 2 * by_radius.maximum(by_plane).clamp(max=1)).sqrt()  # ||u' - u||
    u = z / length.clamp(min=SHORTEST)[:, None]
    near = torch.linalg.vector_norm(u - bank[neighbours(u, bank, k)[:, -1]], dim=1)
    rows = _each_row(box, shortest.clamp(min=SHORTEST), longest, bank, k)
    low = (near - turned).clamp(min=0).square().maximum(rows.lower)
    high = (near + turned).square().minimum(rows.upper)
    most = (1 + torch.linalg.vector_norm(bank, dim=1).max()).square()
    return Interval(torch.where(sound, low, 0.0), torch.where(sound, high, most).minimum(most))


def _each_row(box: Interval, shortest: Tensor, longest: Tensor, bank: Tensor, k: int) -> Interval:
    """k-th smallest of the bounds of 1 - 2 <u, b> + ||b||^2 over the bank, <u, b> = <z, b> / ||z||."""
    centre, half = (box.lower + box.upper) / 2 @ bank.mT, (box.upper - box.lower) / 2 @ bank.abs().mT
    shortest, longest = shortest[:, None], longest[:, None]
    size = torch.linalg.vector_norm(bank, dim=1)
    low, high = centre - half, centre + half
    most = torch.where(high > 0, high / shortest, high / longest).minimum(size)
    least = torch.where(low > 0, low / longest, low / shortest).maximum(-size)
    below, above = 1 + size.square() - 2 * most, 1 + size.square() - 2 * least
    return Interval(below.clamp(min=0).kthvalue(k, dim=1).values, above.kthvalue(k, dim=1).values)
