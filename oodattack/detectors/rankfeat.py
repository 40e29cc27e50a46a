"""RankFeat: Song, Sebe & Wang, "RankFeat: Rank-1 Feature Removal for Out-of-distribution Detection", NeurIPS 2022,
arXiv:2209.08590."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detector import Surrogate
from oodattack.detectors.default_stages import stages_for
from oodattack.detectors.energy import energy
from oodattack.detectors.net import OnNetwork

STEPS = 20  # of power iteration, as in the authors' faster variant


class RankFeat(OnNetwork):
    """Free energy of the logits after X - s_1 u_1 v_1^T at a layer; with several, of the mean of their logits.

    X is the layer's output as a matrix of channels and positions, s_1 its largest singular value, u_1 and v_1 the
    vectors to it. The derivative of an SVD divides by gaps between singular values and is infinite where two of them
    are equal, as those of dead channels are. Here it goes through `STEPS` power iterations from the exact vector
    instead: equal to it up to (s_2 / s_1)^(2 STEPS) and always finite.

    Args:
        net: classifier.
        layers: names of modules with outputs of shape (B, C, ...). Default: the last stage.
        fast: let attacks start the power iterations elsewhere and skip the exact vector, so that the values that they
            see differ a little where s_2 is close to s_1; the surrogate's rank correlation says how much.

    Differs from the paper: higher means more OOD; one layer by default, where the paper's best result takes the last
    two stages.
    """

    name = "rankfeat"

    def __init__(self, net: Classifier, *, layers: Sequence[str] | None = None, fast: bool = True) -> None:
        super().__init__(net, "run")
        self.fast = fast
        self.layers = stages_for(net, "RankFeat(net, layers=[...])")[-1:] if layers is None else list(layers)
        if not self.layers:
            raise ValueError("`layers` must name at least one layer, got none. Leave it out for the last stage.")
        words = f"{STEPS} power iterations for the first singular vector"
        self.surrogate = Surrogate(words, self.soft, self.soft_latent) if fast else None

    def _latent(self, x: Tensor, *, exact: bool) -> Tensor:
        outputs = self.net.run(x, watch=self.layers).outputs
        cut = {name: without_rank_one(h, exact=exact) for name, h in outputs.items()}
        return torch.stack([self.net.run(x, replace={name: h}).logits for name, h in cut.items()]).mean(dim=0)

    def latent(self, x: Tensor) -> Tensor:
        """Mean logits over layers, shape (B, K)."""
        return self._latent(x, exact=True)

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,)."""
        return energy(self.latent(x))

    def soft_latent(self, x: Tensor) -> Tensor:
        """`latent` by power iteration alone, shape (B, K)."""
        return self._latent(x, exact=False)

    def soft(self, x: Tensor) -> Tensor:
        """Scores by power iteration alone, shape (B,)."""
        return energy(self.soft_latent(x))


def without_rank_one(h: Tensor, *, exact: bool) -> Tensor:
    """X - s_1 u_1 v_1^T of each row's matrix of channels and positions.

    Args:
        h: shape (B, C, ...), more than one channel and position.
        exact: start from the first singular vector, else from `longest_column`.

    Returns:
        Shape of `h`.

    Raises:
        ValueError: a matrix of rank one: nothing would be left.
    """
    x = h.flatten(2) if h.ndim > 2 else h[:, :, None]
    if min(x.shape[1:]) < 2:
        raise ValueError(f"layers must put out more than one channel and position, got {tuple(h.shape)}. Name another.")
    wide = x.shape[2] > x.shape[1]
    y = x.mT if wide else x  # (B, n, m), m <= n
    gram = y.mT @ y
    v = first_eigenvector(gram.detach()) if exact else longest_column(gram.detach())
    for _ in range(STEPS):
        v = unit(gram @ v)
    rest = y - (y @ v) @ v.mT
    return (rest.mT if wide else rest).reshape(h.shape)


def first_eigenvector(gram: Tensor) -> Tensor:
    """To the largest eigenvalue of symmetric matrices (B, m, m): shape (B, m, 1). In float64, no gradient."""
    vectors: Tensor = torch.linalg.eigh(gram.double()).eigenvectors
    return vectors[:, :, -1:].to(gram.dtype)


def longest_column(gram: Tensor) -> Tensor:
    """Of Gram matrices (B, m, m), the column with the largest diagonal entry as a unit vector: shape (B, m, 1)."""
    at = gram.diagonal(dim1=1, dim2=2).argmax(dim=1)
    return unit(gram.take_along_dim(at[:, None, None], dim=2))


def unit(v: Tensor) -> Tensor:
    """v / ||v||_2 for columns (B, m, 1); 0 stays 0."""
    length = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    long_enough: Tensor = length.clamp(min=torch.finfo(v.dtype).tiny ** 0.5)
    return v / long_enough
