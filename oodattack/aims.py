"""What the attacker wants, turned into a per-row loss to maximise."""

import torch
from torch import Tensor

from oodattack.detector import Latent, Score
from oodattack.loss import Loss

CLOSE = 1e-4  # a matched row is finished at this MAPE: a tenth of what Liang et al. aim for


def hide(score: Score) -> Loss:
    """-score(x): an OOD input should look ID."""
    return lambda x, _rows: -real(score(x))


def lift(score: Score) -> Loss:
    """score(x): an ID input should look OOD (the aim called "raise")."""
    return lambda x, _rows: real(score(x))


def match(latent: Latent, z_in: Tensor, *, unit: Tensor | None = None) -> Loss:
    """-||(f(x) - z_in) / u||_2^2, for u = 1 the J of Liang et al. 2020, Alg. 1, with the sign turned.

    Args:
        latent: f, (B, C, H, W) -> (B, D) or (B,).
        z_in: targets of all rows, shape (N, D).
        unit: u of all rows, > 0, shape (N,), about as large as f(x) and z_in: the squares of very large or small
            numbers are infinite or 0. None: 1.
    """
    u = torch.ones_like(z_in[:, 0]) if unit is None else unit
    return lambda x, rows: -((rows_of(real(latent(x))) - z_in[rows]) / u[rows, None]).square().sum(dim=1)


def quantile(score: Score, level: Tensor) -> Loss:
    """-|score(x) - level|: the score should sit at a quantile of ID scores.

    Args:
        score: any detector.
        level: the target score, a scalar.
    """
    return lambda x, _rows: -(real(score(x)) - level).abs()


def cross(score: Score, level: Tensor) -> Loss:
    """level - score(x), >= 0 where a threshold accepts x.

    Args:
        score: any detector.
        level: the threshold, a scalar.
    """
    return lambda x, _rows: level - real(score(x))


def more_of_a_class(logits: Latent, label: Tensor) -> Loss:
    """f_c(x), the logit of one class a row: every score of logits falls when one of them grows far enough.

    Args:
        logits: (B, C, H, W) -> (B, K).
        label: c of all rows, shape (N,).
    """
    return lambda x, rows: logits(x).gather(1, label[rows, None]).squeeze(1)


def less_of_every_class(logits: Latent) -> Loss:
    """-max_k f_k(x): the network should be sure of nothing."""
    return lambda x, _rows: -logits(x).amax(dim=1)


def misclassify(logits: Latent, label: Tensor) -> Loss:
    """max_{k != y} f_k(x) - f_y(x), the margin by which the label is missed. Arguments as `more_of_a_class`."""

    def loss(x: Tensor, rows: Tensor) -> Tensor:
        f, y = logits(x), label[rows, None]
        return f.scatter(1, y, -float("inf")).amax(dim=1) - f.gather(1, y).squeeze(1)

    return loss


def close_enough(z_in: Tensor, *, unit: Tensor | None = None, spread: Tensor | None = None) -> Tensor:
    """Loss of `match` at which MAPE <= `CLOSE` is certain, shape (N,): mean |d| <= sqrt(mean d^2).

    Args:
        z_in: targets, shape (N, D).
        unit: as for `match`.
        spread: standard deviation of scores, for targets that are such: off by `CLOSE` of it, if that is less. A
            constant that is added to a score makes MAPE small and nothing alike.
    """
    reach = CLOSE * size(z_in)
    if spread is not None:
        reach = reach.clamp(max=CLOSE * spread)
    return -z_in.shape[1] * (reach if unit is None else reach / unit).square()


def size(z: Tensor) -> Tensor:
    """max_d |z_d|, the scale of MAPE, shape (N,); the least positive number there is where all of z is zero."""
    return z.abs().amax(dim=1).clamp(min=torch.finfo(z.dtype).tiny)


def mape(z_in: Tensor, z_out: Tensor) -> Tensor:
    """mean_d |z_out - z_in| / max_d |z_in|, the MAPE of Liang et al. 2020, section 3, as a fraction.

    Args:
        z_in: latent of the target ID images, shape (N, D); a score counts as D = 1.
        z_out: latent of the attacked images, same shape.

    Returns:
        Shape (N,), >= 0 and finite: the largest number there is where a target that is zero throughout was missed, or
        `z_out` is no number.
    """
    largest = torch.finfo(z_in.dtype).max
    return ((z_out - z_in).abs().mean(dim=1) / size(z_in)).nan_to_num(nan=largest).clamp(max=largest)


def real(score: Tensor) -> Tensor:
    """Counts, flags and numbers of half precision as ones of float32 at least."""
    whole = not score.is_floating_point() or torch.finfo(score.dtype).bits < 32
    return score.float() if whole else score


def rows_of(z: Tensor) -> Tensor:
    """Bring a latent or a score to (B, D)."""
    return z[:, None] if z.ndim == 1 else z.flatten(1)
