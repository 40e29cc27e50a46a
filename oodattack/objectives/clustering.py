"""K-means over a pool of candidates, and what is taken from each cluster; shared by GReg+ and DOS.

Sharifi et al., "Gradient-Regularized Out-of-Distribution Detection", ECCV 2024, arXiv:2404.12368, Alg. 1; Jiang et al.,
"DOS: Diverse Outlier Sampling for Out-of-Distribution Detection", ICLR 2024, arXiv:2306.02031.
"""

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize


def cluster(features: Tensor, clusters: int, *, seed: int, restarts: int) -> Tensor:
    """K-means labels of the L2-normalised rows, lines 2 and 3 of Alg. 1 of Sharifi et al. 2024.

    Args:
        features: shape (N, D), N >= k, finite.
        clusters: k >= 1; some stay empty where there are fewer distinct directions.
        seed: in 0..2**32 - 1.
        restarts: of K-means; the best one counts.

    Returns:
        Labels in 0..k-1, shape (N,), int64, on the CPU. Computed in double precision.
    """
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    unit = normalize(features.detach().cpu().double(), dim=1)
    with warnings.catch_warnings():
        # fewer distinct rows than clusters: some clusters stay empty and are made up for
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(n_clusters=clusters, n_init=restarts, random_state=seed).fit(unit.numpy())
    return torch.as_tensor(fitted.labels_).long()


def ends(labels: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with the lowest and with the highest value of each cluster that has members.

    Args:
        labels: of clusters, shape (N,), on the CPU.
        values: shape (N,), finite; ties go to the lower row for the lowest, to the higher row for the highest.

    Returns:
        Two vectors of rows, int64, on the CPU, one entry a cluster, by label; equal where a cluster has one member.
    """
    order = values.detach().cpu().argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # by cluster, within a cluster by value
    changes = labels[order].diff() != 0
    edge = torch.ones(1, dtype=torch.bool)
    return order[torch.cat([edge, changes])], order[torch.cat([changes, edge])]


def made_up(rows: Tensor, n: int, total: int, *, seed: int) -> Tensor:
    """`rows`, and random others of 0..total-1 until there are n.

    Args:
        rows: at most n different rows, int64, on the CPU; repeats count once.
        n: <= `total`.
        total: size of the pool.
        seed: of the others.

    Returns:
        Shape (n,), int64, ascending, without repeats, on the CPU.
    """
    taken = torch.zeros(total, dtype=torch.bool)
    taken[rows] = True
    left = (~taken).nonzero().flatten()
    short = n - int(taken.sum())
    taken[left[torch.randperm(len(left), generator=Generator().manual_seed(seed))[:short]]] = True
    return taken.nonzero().flatten()


def check_candidates(features: Tensor, values: Tensor, *, name: str, seed: int) -> None:
    """Raise unless `features` (N, D) and `values` (N,), called `name`, are finite and fit, and `seed` is in range."""
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(
            f"`features` must have shape (N, D) with D >= 1, got {tuple(features.shape)}. "
            "Flatten or pool the feature maps."
        )
    if values.shape != features.shape[:1]:
        raise ValueError(
            f"`{name}` must have shape ({len(features)},), got {tuple(values.shape)}. Pass one value a row of features."
        )
    if not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be in 0..2**32 - 1, got {seed}. Reduce it modulo 2**32.")
    for called, value in (("features", features), (name, values)):
        if bad := int((~value.isfinite()).sum()):
            raise FloatingPointError(
                f"`{called}` must be finite, got {bad} of {value.numel()} values that are not. Lower the learning rate."
            )
