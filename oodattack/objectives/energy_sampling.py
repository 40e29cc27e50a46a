"""Energy-based sampling (the "+" of GReg+): Sharifi et al., "Gradient-Regularized Out-of-Distribution Detection", ECCV
2024, arXiv:2404.12368, section 4.2 and Alg. 1."""  # noqa: D205, D209

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

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
    _check(features, energies, clusters, seed)
    labels = _cluster(features, clusters, seed)
    order = energies.detach().cpu().argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # by cluster, within a cluster by energy
    changes = labels[order].diff() != 0
    edge = torch.ones(1, dtype=torch.bool)
    taken = torch.zeros(len(labels), dtype=torch.bool)
    taken[order[torch.cat([edge, changes])]] = True  # first of each cluster: lowest energy
    taken[order[torch.cat([changes, edge])]] = True  # last of each cluster: highest energy
    left = (~taken).nonzero().flatten()
    short = 2 * clusters - int(taken.sum())
    taken[left[torch.randperm(len(left), generator=Generator().manual_seed(seed))[:short]]] = True
    return taken.nonzero().flatten().to(energies.device)


def epoch_pools(n_aux: int, batches: int, *, seed: int) -> tuple[Tensor, ...]:
    """A random partition of all auxiliary samples, one pool of candidates a training step.

    Every auxiliary sample is in exactly one pool of the epoch ("Sampling Details", section 6.1 of the paper).

    Args:
        n_aux: number of auxiliary samples, >= `batches`.
        batches: training steps in the epoch, >= 1.
        seed: fixes the partition; pass another one each epoch.

    Returns:
        `batches` vectors of indices in 0..n_aux-1, int64, on the CPU, with lengths that differ by at most 1.

    Raises:
        ValueError: `batches` < 1, or fewer samples than batches.
    """
    if batches < 1:
        raise ValueError(f"`batches` must be >= 1, got {batches}. Pass the number of training steps in an epoch.")
    if n_aux < batches:
        raise ValueError(
            f"`n_aux` must be >= `batches`, got {n_aux} samples for {batches} pools. "
            "Use more auxiliary samples or fewer steps."
        )
    return torch.randperm(n_aux, generator=Generator().manual_seed(seed)).tensor_split(batches)


def _cluster(features: Tensor, clusters: int, seed: int) -> Tensor:
    """K-means labels (N,) of the L2-normalised rows, lines 2 and 3 of Alg. 1."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    unit = normalize(features.detach().cpu().double(), dim=1)
    with warnings.catch_warnings():
        # fewer distinct rows than clusters: some clusters stay empty and are made up for
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(n_clusters=clusters, n_init=RESTARTS, random_state=seed).fit(unit.numpy())
    return torch.as_tensor(fitted.labels_).long()


def _check(features: Tensor, energies: Tensor, clusters: int, seed: int) -> None:
    """Raise unless the arguments of `choose` are in range."""
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(
            f"`features` must have shape (N, D) with D >= 1, got {tuple(features.shape)}. "
            "Flatten or pool the feature maps."
        )
    if energies.shape != features.shape[:1]:
        raise ValueError(
            f"`energies` must have shape ({len(features)},), got {tuple(energies.shape)}. "
            "Pass one energy a row of features."
        )
    if clusters < 1:
        raise ValueError(f"`clusters` must be >= 1, got {clusters}. Take the number of ID inputs in a training step.")
    if len(features) < 2 * clusters:
        raise ValueError(
            f"`features` must have at least 2 * clusters = {2 * clusters} rows, got {len(features)}. "
            "Draw a larger pool or lower `clusters`."
        )
    if not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be in 0..2**32 - 1, got {seed}. Reduce it modulo 2**32.")
    for name, value in (("features", features), ("energies", energies)):
        if bad := int((~value.isfinite()).sum()):
            raise FloatingPointError(
                f"`{name}` must be finite, got {bad} of {value.numel()} values that are not. Lower the learning rate."
            )
