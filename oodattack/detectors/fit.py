"""What detectors may be fitted on."""

from typing import NamedTuple

from torch import Tensor


class Fit(NamedTuple):
    """What a detector may be fitted on.

    Attributes:
        x: ID training images, shape (N, C, H, W), in [0, 1]; N = 0 where there are none.
        y: their labels, shape (N,), or None where there are none.
        ood_val: OOD validation images, shape (M, C, H, W), or None where there are none.
        id_val: ID validation images, shape (K, C, H, W), or None where there are none but the training images.
    """

    x: Tensor
    y: Tensor | None
    ood_val: Tensor | None = None
    id_val: Tensor | None = None

    def sets(self) -> dict[str, Tensor]:
        """All images that there are, by what they are called in a report."""
        named = {
            "the training images": self.x if len(self.x) else None,
            "the OOD validation images": self.ood_val,
            "the ID validation images": self.id_val,
        }
        return {name: x for name, x in named.items() if x is not None}

    def known(self) -> Tensor:
        """The ID validation images, or the training images where there are none.

        The former are better: of images that it has learnt from a network is surer than of others.
        """
        return self.x if self.id_val is None else self.id_val

    def strange(self) -> Tensor:
        """The OOD validation images.

        Raises:
            ValueError: there are none.
        """
        if self.ood_val is None:
            raise ValueError("`ood_val` must be OOD images for a tuned detector, got none. Pass Fit(x, y, ood_val).")
        return self.ood_val
