"""Virtual-logit matching: Wang, Li, Feng & Zhang, "ViM: Out-Of-Distribution with Virtual-logit Matching", CVPR 2022,
arXiv:2203.10807."""

import torch
from torch import Tensor

from oodattack.classifier import Classifier
from oodattack.detectors.batches import BATCH_SIZE, Images
from oodattack.detectors.linear_head import batches_of_features, head_logits, head_of
from oodattack.detectors.net import OnNetwork


def residual_norm(z: Tensor, origin: Tensor, residual: Tensor) -> Tensor:
    """||R^T (z - u)||: length of what the principal space leaves of the features.

    Args:
        z: features, shape (B, D).
        origin: u, shape (D,).
        residual: R, orthonormal columns, shape (D, D - dim).

    Returns:
        Shape (B,), >= 0.
    """
    length: Tensor = torch.linalg.vector_norm((z - origin.to(z)) @ residual.to(z), dim=1)
    return length


class ViM(OnNetwork):
    """alpha ||R^T (h - u)|| - logsumexp_k f_k: the virtual logit against those of the classes. See `fit_vim`.

    The paper's score is the softmax probability of the virtual logit among all K + 1, the sigmoid of this. It has the
    same order and saturates where this does not.

    Args:
        net: classifier whose logits are those of an `nn.Linear` head.
        origin: u, shape (D,).
        residual: R, orthonormal basis of the space beside the principal one, shape (D, D - dim).
        alpha: scale of the virtual logit, finite.

    Raises:
        ValueError: shapes that do not fit the features, or an alpha that is not finite.

    Differs from the paper: the sigmoid is left out. Differs from the authors' code: they negate it (ID high).
    """

    name = "vim"
    origin: Tensor
    residual: Tensor

    def __init__(self, net: Classifier, origin: Tensor, residual: Tensor, *, alpha: float) -> None:
        super().__init__(net, "features")
        width = head_of(net).weight.shape[1]
        if tuple(origin.shape) != (width,) or residual.ndim != 2 or len(residual) != width:
            found = f"{tuple(origin.shape)} and {tuple(residual.shape)}"
            raise ValueError(
                f"`origin` and `residual` must be ({width},) and ({width}, D - dim), got {found}. `fit_vim` makes them."
            )
        if not abs(alpha) < float("inf"):
            raise ValueError(f"`alpha` must be finite, got {alpha}. `fit_vim` finds it.")
        self.alpha = alpha
        self.register_buffer("origin", origin)
        self.register_buffer("residual", residual.contiguous())  # as it is when it has been saved: scores are the same
        self.latent = net.features

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), unbounded."""
        h = self.net.features(x)
        virtual = self.alpha * residual_norm(h, self.origin, self.residual)
        return virtual - head_logits(self.net, h).logsumexp(dim=1)


def origin_of(net: Classifier) -> Tensor:
    """u = -pinv(W) b, where the logits of the head are all zero, or as near to it as can be; shape (D,), float64."""
    head = head_of(net)
    weight = head.weight.detach().double()
    if head.bias is None:
        return torch.zeros_like(weight[0])
    origin: Tensor = -torch.linalg.pinv(weight) @ head.bias.detach().double()
    return origin


def default_dim(width: int) -> int:
    """Dimension of the principal space of `width` features: the authors' 1000 from 2048 and 512 above 512, else half.

    The half is ours; for 512 features it is OpenOOD's 256.
    """
    return 1000 if width >= 2048 else 512 if width > 512 else width // 2


def fit_vim(net: Classifier, x: Images, *, dim: int | None = None, batch_size: int = BATCH_SIZE) -> ViM:
    """Principal space and scale from ID training images, which pass through the network twice.

    The principal space is spanned by the `dim` largest eigenvectors of E[(h - u) (h - u)^T]; alpha is the mean largest
    logit over the mean ||R^T (h - u)||.

    Args:
        net: classifier.
        x: images (N, C, H, W) in [0, 1], or batches of them; see `batches`.
        dim: in 1..D - 1. Default: see `default_dim`, but at most half the number of images, which span no more than
            one dimension each.
        batch_size: images per forward pass.

    Raises:
        ValueError: no images, a head that is not linear, `dim` out of range, or features that all lie in the principal
            space.

    Differs from the authors' code: the default for few images.
    """
    width, asked = head_of(net).weight.shape[1], dim
    dim = default_dim(width) if dim is None else dim
    if not 1 <= dim < width:
        raise ValueError(
            f"`dim` must be in 1..{width - 1}, below the number of features, got {dim}. Leave it out for the default."
        )
    n = 0
    with torch.no_grad():
        origin = origin_of(net)
        moment = torch.zeros(width, width, dtype=torch.float64, device=origin.device)
        for h in batches_of_features(net, x, batch_size):
            off = h.double() - origin
            moment += off.T @ off
            n += len(h)
        if asked is None:
            dim = max(1, min(dim, n // 2))
        residual = torch.linalg.eigh(moment).eigenvectors[:, : width - dim]  # ascending eigenvalues
        top, length, size = moment.new_zeros(3)
        for h in batches_of_features(net, x, batch_size):
            top += head_logits(net, h).amax(dim=1).double().sum()
            length += residual_norm(h.double(), origin, residual).sum()
            size += (h.double() - origin).norm(dim=1).sum()
    if length <= 1e-6 * size:
        raise ValueError(
            f"`dim` must leave features something beside the principal space, got {dim}, which holds those of all {n} "
            "images. Pass more images, or lower `dim` in Python."
        )
    weight = head_of(net).weight
    return ViM(net, origin.to(weight), residual.to(weight), alpha=float(top / length))
