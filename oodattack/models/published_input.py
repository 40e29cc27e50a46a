"""What a network of another library expects its images to have gone through."""

from typing import NamedTuple


class Preprocessing(NamedTuple):
    """How a published network was fed when its accuracy was measured: resize, crop the middle, scale to [0, 1], norm.

    Attributes:
        mean: subtracted per channel, in [0, 1] units.
        std: divides per channel, > 0.
        size: pixels of the shorter side after resizing; or (height, width), to which the image is stretched.
        crop: pixels a side of the square cut from the middle.
        interpolation: of the resizing: "bilinear", "bicubic", ...
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int | tuple[int, int]
    crop: int
    interpolation: str
