"""Joint energy-based model (JEM): Grathwohl, Wang, Jacobsen, Duvenaud, Norouzi & Swersky, "Your Classifier is Secretly
an Energy Based Model and You Should Treat it Like One", ICLR 2020, arXiv:1912.03263."""

from torch import Tensor
from torch.nn.functional import cross_entropy


def joint_energy(logits: Tensor, y: Tensor, logits_q: Tensor, *, weight: float) -> Tensor:
    """mean CE(f(x), y) - weight * [mean LSE f(x) - mean LSE f(x_q)], the loss of Alg. 1 of Grathwohl et al. 2020.

    log p(x) = LSE f(x) up to a constant, so the second term raises the density of ID inputs and lowers it where the
    network's own samples x_q are; its gradient is that of -log p(x) if x_q is distributed as p. The authors' weight
    is 1.

    Args:
        logits: f(x) of ID inputs, shape (N, C), N >= 1, C >= 2, unbounded.
        y: labels, shape (N,), integers in 0..C-1.
        logits_q: f(x_q) of samples of the network itself, from `langevin_samples`, shape (M, C), M >= 1.
        weight: of the density's term, >= 0.

    Returns:
        Scalar, unbounded. The cross-entropy of the ID inputs is in it.

    Raises:
        ValueError: shapes, labels or weight that do not fit.

    Differs from the authors' code: the two terms may share a batch or not there; here they do.
    """
    if logits.ndim != 2 or len(logits) == 0 or logits.shape[1] < 2 or y.shape != logits.shape[:1]:
        raise ValueError(
            f"`logits` and `y` must have shapes (N, C) and (N,) with N >= 1 and C >= 2, got {tuple(logits.shape)} and "
            f"{tuple(y.shape)}. Pass one row of logits and one label an input."
        )
    if logits_q.ndim != 2 or len(logits_q) == 0 or logits_q.shape[1] != logits.shape[1]:
        raise ValueError(
            f"`logits_q` must have shape (M, {logits.shape[1]}) with M >= 1, got {tuple(logits_q.shape)}. "
            "Pass the samples through the same network."
        )
    if not 0 <= weight < float("inf"):
        raise ValueError(f"`weight` must be >= 0, got {weight}. It multiplies the term of the density.")
    return cross_entropy(logits, y) - weight * (logits.logsumexp(dim=1).mean() - logits_q.logsumexp(dim=1).mean())
