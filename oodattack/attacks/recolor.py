"""One change of colours for the whole image: ReColorAdv of Laidlaw & Feizi, "Functional Adversarial Attacks".

NeurIPS 2019, arXiv:1906.00001.
"""

from torch import Tensor
from torch.nn.functional import grid_sample

from oodattack.attack import Attack
from oodattack.attacks.stadv import climb

NODES = 8  # along each channel


def recolor(*, limit: float) -> Attack:
    """Sign steps on a map of colours g, |g| <= limit per channel: x_adv = clamp(x + g(x), 0, 1), one g for all pixels.

    g is given on an even grid of 8 nodes a channel over [0, 1]^C and linear between them. White box: the gradient at
    the image goes through the interpolation to the nodes. `init = "clean"` starts at g = 0, anything else at a g drawn
    uniformly.

    Args:
        limit: largest change of a channel, >= 0, input units; 0 leaves the image.

    Raises:
        ValueError: `limit` is negative; or, at the start, the image has more than 3 channels.

    Differs from the paper: RGB instead of CIELUV, a grid of our own, no smoothness penalty, sign steps that shrink
    instead of Adam.
    """
    if not limit >= 0:
        raise ValueError(f"`limit` must be >= 0, got {limit}. Write 0.06 for 6 % of the range of a channel.")
    return climb(lambda x, table: (x + look_up(table, x)).clamp(0, 1), nodes, limit)


def nodes(x: Tensor) -> tuple[int, ...]:
    """Shape of one row's table, (C, n3, n2, n1): 8 nodes for each channel there is, one for each there is not."""
    channels = x.shape[1]
    if x.ndim != 4 or channels > 3:
        raise ValueError(
            f"`x` must be images of 1 to 3 channels for recolor, got {tuple(x.shape)}. Use another attack."
        )
    return (channels, *(NODES if channels > i else 1 for i in (2, 1, 0)))


def look_up(table: Tensor, x: Tensor) -> Tensor:
    """Values (B, C, H, W) of tables (B, C, n3, n2, n1) at the colours x (B, C, H, W), linear between nodes."""
    at = x.new_zeros(len(x), 1, *x.shape[2:], 3)
    at[..., : x.shape[1]] = (2 * x - 1).movedim(1, -1).unsqueeze(1)  # the grid spans [-1, 1]; the first channel is n1
    return grid_sample(table, at, padding_mode="border", align_corners=True).squeeze(2)
