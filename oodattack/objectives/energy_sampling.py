"""Energy-based sampling (the "+" of GReg+): Sharifi et al., "Gradient-Regularized Out-of-Distribution Detection", ECCV
2024, arXiv:2404.12368, section 4.2 and Alg. 1."""

import torch
from torch import Generator, Tensor

from oodattack.objectives.clustering import check_candidates, cluster, ends, made_up

RESTARTS = 3  # of K-means, as in the authors' code


def choose(features: Tensor, energies: Tensor, *, clusters: int, seed: int) -> Tensor:
    """The candidates of lowest and of highest energy in each of k clusters, Alg. 1 of Sharifi et al. 2024.

    Clusters with fewer than two members give what they have; random other candidates make up for them. All chosen
    rows go to both losses of GReg: the energy margin loss acts on the low ones, the gradient penalty on the high ones.

    Args:
        features: penultimate features h(x) of a pool of candidates, shape (N, D), N >= 2k, finite.
        energies: their energies, shape (N,), finite; ties go to the lower index for the lowest, the higher for the
            highest.
        clusters: k >= 1; the paper takes the number of ID inputs in a training step.
        seed: of the clustering and of what is drawn at random, in 0..2**32 - 1.

    Returns:
        Indices into the pool, shape (2k,), int64, ascending, without repeats, on the device of `energies`.

    Raises:
        ValueError: shapes that do not fit, fewer than 2k candidates, or `clusters` or `seed` out of range.
        FloatingPointError: features or energies that are not finite.

    Differs from the paper: Alg. 1 leaves open what a cluster of one gives; random others, as in the authors' code.
    Differs from the authors' code: always 2k rows, theirs may cut the pool by energy first; features are scaled and
    clustered in double precision.
    """
    check_candidates(features, energies, name="energies", seed=seed)
    if clusters < 1:
        raise ValueError(f"`clusters` must be >= 1, got {clusters}. Take the number of ID inputs in a training step.")
    if len(features) < 2 * clusters:
        raise ValueError(
            f"`features` must have at least 2 * clusters = {2 * clusters} rows, got {len(features)}. "
            "Draw a larger pool or lower `clusters`."
        )
    labels = cluster(features, clusters, seed=seed, restarts=RESTARTS)
    rows = torch.cat(ends(labels, energies))
    return made_up(rows, 2 * clusters, len(labels), seed=seed).to(energies.device)


def epoch_pools(n_aux: int, batches: int, *, seed: int, least: int = 1) -> tuple[Tensor, ...]:
    """A random partition of all auxiliary samples, one pool of candidates a training step.

    Every auxiliary sample is in exactly one pool of the epoch ("Sampling Details", section 6.1 of the paper), where
    there are enough for pools of `least`. Where there are fewer, fresh partitions into pools of at least that size
    follow one another until every step has one.

    Args:
        n_aux: number of auxiliary samples, >= `least`.
        batches: training steps in the epoch, >= 1.
        seed: fixes the partition; pass another one each epoch.
        least: candidates in a pool, >= 1.

    Returns:
        `batches` vectors of indices in 0..n_aux-1, int64, on the CPU, without repeats, with lengths that differ by at
        most 1.

    Raises:
        ValueError: `batches` or `least` < 1, or fewer samples than `least`.
    """
    if batches < 1:
        raise ValueError(f"`batches` must be >= 1, got {batches}. Pass the number of training steps in an epoch.")
    if least < 1:
        raise ValueError(f"`least` must be >= 1, got {least}. Pass the number of candidates that a step needs.")
    if n_aux < least:
        raise ValueError(
            f"`n_aux` must be >= `least`, got {n_aux} samples for pools of {least}. "
            "Use more auxiliary samples or smaller batches."
        )
    generator, each = Generator().manual_seed(seed), min(batches, n_aux // least)
    pools: list[Tensor] = []
    while len(pools) < batches:
        pools.extend(torch.randperm(n_aux, generator=generator).tensor_split(each))
    return tuple(pools[:batches])
