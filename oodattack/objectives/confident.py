"""Confident classifier: Lee, Lee, Lee & Shin, "Training Confidence-calibrated Classifiers for Detecting
Out-of-Distribution Samples", ICLR 2018, arXiv:1711.09325.

Three networks are trained in turn (their Alg. 1), each with its own loss: a discriminator D and a generator G as in a
GAN, and the classifier f. Inputs that are only passed through are detached by the caller: D(G(z).detach()) for the
discriminator, f(G(z).detach()) for the classifier. The generator's loss goes through D and f, whose parameters get
gradients too: clear them before their own step.
"""

import math
from typing import Literal, get_args

from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

Form = Literal["minimax", "non-saturating"]


def uniform_divergence(logits: Tensor) -> Tensor:
    """KL(U || softmax f) = log sum_c exp(f_c) - mean_c f_c - log C of every row.

    Args:
        logits: shape (B, C), C >= 2, unbounded.

    Returns:
        Shape (B,), >= 0 up to rounding, 0 where all logits are equal; higher means more confident, so ID.

    Raises:
        ValueError: `logits` has another shape.

    Differs from the authors' code: nothing (there the mean over rows and classes is multiplied by C).
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"`logits` must have shape (B, C) with C >= 2, got {tuple(logits.shape)}. Pass one row of logits an input."
        )
    return logits.logsumexp(dim=1) - logits.mean(dim=1) - math.log(logits.shape[1])


def confident(logits: Tensor, y: Tensor, logits_fake: Tensor, *, weight: float) -> Tensor:
    """mean CE(f(x), y) + beta * mean KL(U || softmax f(G(z))), the classifier's loss.

    Args:
        logits: of ID inputs, shape (N, C), N >= 1, C >= 2.
        y: labels, shape (N,), integers in 0..C-1.
        logits_fake: of generated images, shape (M, C), M >= 1; the images detached from the generator.
        weight: beta >= 0; in the authors' code 1, and 0.1 for CIFAR-10.

    Returns:
        Scalar >= 0. The cross-entropy of the ID inputs is in it.

    Raises:
        ValueError: empty or misshapen logits, labels that do not fit, or a negative weight.

    Differs from the authors' code: there the images are not detached; what reaches the generator is thrown away.
    """
    _check_fake(logits_fake)
    _check_weight(weight)
    if logits.shape[1:] != logits_fake.shape[1:] or len(logits) == 0 or y.shape != logits.shape[:1]:
        raise ValueError(
            f"`logits`, `y` and `logits_fake` must have shapes (N, C), (N,) and (M, C), got {tuple(logits.shape)}, "
            f"{tuple(y.shape)} and {tuple(logits_fake.shape)}. Pass both images through the same classifier."
        )
    return cross_entropy(logits, y) + weight * uniform_divergence(logits_fake).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-mean log D(x) - mean log(1 - D(G(z))) with D = sigmoid d, the discriminator's loss.

    Args:
        real: d of ID images, shape (N,), N >= 1, unbounded: the discriminator's output before the sigmoid.
        fake: d of generated images, detached from the generator, shape (M,), M >= 1.

    Returns:
        Scalar >= 0; 2 log 2 for a discriminator that cannot tell them apart.

    Raises:
        ValueError: outputs that are not non-empty vectors.

    Differs from the authors' code: their discriminator ends in the sigmoid; here it is in the loss, where it does not
    round to 0 or 1.
    """
    _check_outputs("real", real)
    _check_outputs("fake", fake)
    return softplus(-real).mean() + softplus(fake).mean()


def generator_loss(fake: Tensor, logits_fake: Tensor, *, weight: float, form: Form) -> Tensor:
    """GAN term + beta * mean KL(U || softmax f(G(z))): images near the ID data that the classifier is unsure of.

    Args:
        fake: d of generated images, shape (M,), M >= 1, unbounded, with a graph back to the generator.
        logits_fake: the classifier's logits of the same images, shape (M, C), with a graph back to the generator.
        weight: beta >= 0, the same as in `confident`.
        form: of the GAN term: "minimax" is mean log(1 - D(G(z))), as in the paper's objective; "non-saturating" is
            -mean log D(G(z)), as in the authors' code.

    Returns:
        Scalar; >= 0 with "non-saturating".

    Raises:
        ValueError: an unknown form, outputs and logits that do not fit, or a negative weight.

    Differs from the paper: nothing with "minimax".   Differs from the authors' code: nothing with "non-saturating".
    """
    if form not in get_args(Form):
        raise ValueError(f"`form` must be one of {get_args(Form)}, got {form!r}. Pick one of them.")
    _check_outputs("fake", fake)
    _check_fake(logits_fake)
    _check_weight(weight)
    if len(fake) != len(logits_fake):
        raise ValueError(
            f"`logits_fake` must have one row an output of the discriminator, got {len(logits_fake)} rows for "
            f"{len(fake)}. Pass the same images through both."
        )
    gan = -softplus(fake).mean() if form == "minimax" else softplus(-fake).mean()
    return gan + weight * uniform_divergence(logits_fake).mean()


def _check_outputs(name: str, output: Tensor) -> None:
    """Raise ValueError unless `output` is a non-empty vector."""
    if output.ndim != 1 or len(output) == 0:
        raise ValueError(
            f"`{name}` must have shape (M,) with M >= 1, got {tuple(output.shape)}. Pass one output an image."
        )


def _check_fake(logits_fake: Tensor) -> None:
    """Raise ValueError unless `logits_fake` is (M, C) with M >= 1 and C >= 2."""
    if logits_fake.ndim != 2 or len(logits_fake) == 0 or logits_fake.shape[1] < 2:
        raise ValueError(
            f"`logits_fake` must have shape (M, C) with M >= 1 and C >= 2, got {tuple(logits_fake.shape)}. "
            "Generate at least one image."
        )


def _check_weight(weight: float) -> None:
    """Raise ValueError unless `weight` is a finite number >= 0."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"`weight` must be >= 0, got {weight}. It multiplies the divergence from uniform.")
