"""Limited-memory BFGS: Liu & Nocedal, "On the limited memory BFGS method for large scale optimization", 1989.

In the compact form of Byrd, Nocedal & Schnabel, "Representations of quasi-Newton matrices and their use in limited
memory methods", 1994: triangular systems instead of two loops over the pairs, so that all rows go at once.
"""

import torch
from torch import Tensor

CURVED = 1e-4  # least cosine between step and change of gradient for a pair to count


def quasi_newton(down: Tensor, s: Tensor, y: Tensor, known: Tensor, *, stretch: float) -> tuple[Tensor, Tensor]:
    """H down, H being the inverse Hessian that the pairs (s, y) describe: H y = s for the newest one.

    With R the upper triangle of S'Y, D its diagonal and g = stretch s'y / y'y of the newest pair,
    H = g I + [S, g Y] [[R^-T (D + g Y'Y) R^-1, -R^-T], [-R^-1, 0]] [S, g Y]'.

    Args:
        down: minus the gradient, shape (B, D).
        s: steps, shape (B, M, D), oldest first.
        y: changes of the gradient over them, same shape.
        known: pairs that have been filled in, shape (B, M).
        stretch: >= 1, how much longer to step where no pair says anything. Kinks make y'y too large, so that s'y / y'y
            alone is timid.

    Returns:
        Direction (B, D), and whether any pair was of use (B,); where none was, the direction is `down`.
    """
    dtype = down.dtype
    down, s, y = (
        v.to(torch.promote_types(dtype, torch.float32)) for v in (down, s, y)
    )  # of half precision no triangles
    tiny = torch.finfo(s.dtype).tiny
    inner = (s * y).sum(dim=2)
    lengths = torch.linalg.vector_norm(s, dim=2) * torch.linalg.vector_norm(y, dim=2)
    use = known & (inner > CURVED * lengths) & (lengths > tiny)
    scale = (use / inner.where(use, 1).sqrt())[:, :, None]
    s, y = scale * s, scale * y  # now s'y = 1, or both are zero
    yy = y @ y.mT
    r = (s @ y.mT).triu() + torch.diag_embed((~use).to(s.dtype))
    newest = (use * torch.arange(1, use.shape[1] + 1, device=use.device)).argmax(dim=1, keepdim=True)
    size = yy.diagonal(dim1=1, dim2=2).gather(1, newest)
    any_use = use.any(dim=1)
    g = (stretch / size.clamp(min=tiny)).where(any_use[:, None], 1)[:, :, None]
    sp, yp = s @ down[:, :, None], y @ down[:, :, None]
    a = torch.linalg.solve_triangular(r, sp, upper=True)
    b = torch.linalg.solve_triangular(r.mT, use[:, :, None] * a + g * (yy @ a) - g * yp, upper=False)
    move = g[:, :, 0] * down + (s.mT @ b)[:, :, 0] - g[:, :, 0] * (y.mT @ a)[:, :, 0]
    return move.to(dtype), any_use
