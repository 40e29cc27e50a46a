"""Ways to choose auxiliary outliers from a pool of candidates, by name and through one interface.

Names after the ablations of Sharifi et al., "Gradient-Regularized Out-of-Distribution Detection", ECCV 2024,
arXiv:2404.12368. Its Table 5 compares POEM, DOS, "Energy only clustering" and GReg+; section 6.3 defines the third as
GReg+ without the gradient penalty, so it is the sampler "greg+" with another loss. Greedy sampling is argued against in
section 4.2 and is in no table. The sampler "energy" here leaves out the clusters instead; neither it nor "random" is in
Table 5. POEM's sampler needs a draw of its regression: `poem.boundary_sampler`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from oodattack.objectives.diverse_sampling import diverse
from oodattack.objectives.energy_margin import free_energy
from oodattack.objectives.energy_sampling import choose
from oodattack.objectives.outlier_class import outlier_log_odds


class Pool(NamedTuple):
    """Candidates as a network in eval mode sees them.

    Attributes:
        features: penultimate features h(x), shape (N, D), finite.
        logits: shape (N, C), finite. For "dos" the last column is the outlier class; all others take the energy of all
            columns, so leave that column out for them.
    """

    features: Tensor
    logits: Tensor


Sampler = Callable[[Pool, int, int], Tensor]  # pool, n, seed -> n different rows, ascending, on the logits' device


class Row(NamedTuple):
    """A row of the table of samplers.

    Attributes:
        name: as in `OBJECTIVES`.
        source: where it comes from, with its locator.
        description: which candidates it takes.
        sample: (pool, n, seed) -> indices into the pool, shape (n,), int64, ascending, without repeats. ValueError
            where n is not in 1..N, or odd for "greg+", or the seed is not in 0..2**32 - 1.
    """

    name: str
    source: str
    description: str
    sample: Sampler


def random_rows(pool: Pool, n: int, seed: int) -> Tensor:
    """n candidates, all subsets equally likely."""
    check_pool(pool, n, seed)
    order = torch.randperm(len(pool.logits), generator=Generator().manual_seed(seed))
    return order[:n].sort().values.to(pool.logits.device)


def greedy(pool: Pool, n: int, seed: int) -> Tensor:
    """The n candidates of lowest energy, those most like ID inputs; ties go to the lower index, the seed is unused."""
    check_pool(pool, n, seed)
    return free_energy(pool.logits.detach()).argsort(stable=True)[:n].sort().values


def energy_ends(pool: Pool, n: int, seed: int) -> Tensor:
    """The ceil(n / 2) candidates of lowest and the floor(n / 2) of highest energy; the seed is unused."""
    check_pool(pool, n, seed)
    order = free_energy(pool.logits.detach()).argsort(stable=True)
    low = -(-n // 2)
    return torch.cat([order[:low], order[len(order) - (n - low) :]]).sort().values


def clustered_ends(pool: Pool, n: int, seed: int) -> Tensor:
    """Lowest and highest energy in each of n / 2 clusters, see `choose`."""
    check_pool(pool, n, seed)
    if n % 2:
        raise ValueError(f"`n` must be even for greg+, got {n}. It takes two rows a cluster: use twice the ID batch.")
    return choose(pool.features, free_energy(pool.logits.detach()), clusters=n // 2, seed=seed)


def diverse_rows(pool: Pool, n: int, seed: int) -> Tensor:
    """Least probability of the outlier class in each of n clusters, see `diverse`."""
    check_pool(pool, n, seed)
    return diverse(pool.features, outlier_log_odds(pool.logits.detach()), n=n, seed=seed)


SAMPLERS = {
    row.name: row
    for row in (
        Row("random", "baseline", "any candidates", random_rows),
        Row("greedy", "arXiv:2404.12368, section 4.2", "lowest energies", greedy),
        Row("dos", "arXiv:2306.02031", "least outlier probability in each of n clusters", diverse_rows),
        Row("energy", "ablation of arXiv:2404.12368, Alg. 1", "lowest and highest energies", energy_ends),
        Row("greg+", "arXiv:2404.12368, Alg. 1", "lowest and highest energy in each of n / 2 clusters", clustered_ends),
    )
}


def check_pool(pool: Pool, n: int, seed: int) -> None:
    """Raise unless features (N, D) and logits (N, C) fit and are finite, n is in 1..N and the seed in range."""
    features, logits = pool
    if features.ndim != 2 or logits.ndim != 2 or len(features) != len(logits):
        raise ValueError(
            f"`pool` must have features (N, D) and logits (N, C), got {tuple(features.shape)} and "
            f"{tuple(logits.shape)}. Take both from one pass over the candidates."
        )
    if not 1 <= n <= len(logits):
        raise ValueError(f"`n` must be in 1..{len(logits)}, the size of the pool, got {n}. Draw a larger pool.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be in 0..2**32 - 1, got {seed}. Reduce it modulo 2**32.")
    for name, value in (("features", features), ("logits", logits)):
        if bad := int((~value.isfinite()).sum()):
            raise FloatingPointError(
                f"`{name}` must be finite, got {bad} of {value.numel()} values that are not. Lower the learning rate."
            )
