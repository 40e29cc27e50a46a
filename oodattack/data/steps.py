"""What is done to pictures before a network sees them: resize, crop, pad, grey to colour and back.

The names and the order of what each step does follow torchvision's transforms, which the papers use.
"""

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from torch import Tensor

from oodattack.data.tones import as_channels

if TYPE_CHECKING:
    from PIL import Image

Picture = TypeVar("Picture", "Image.Image", Tensor)


class Step(NamedTuple):
    """One step.

    Attributes:
        what: "resize", "center-crop", "pad", "grey-to-rgb" or "rgb-to-grey".
        size: pixels. "resize": of the shorter side, or (height, width); "center-crop": of the side; "pad": of black on
            every side. None for the others.
    """

    what: str
    size: int | tuple[int, int] | None = None


def apply_steps(x: Picture, steps: tuple[Step, ...]) -> Picture:
    """One step after the other.

    Args:
        x: a picture of Pillow, mode "L" or "RGB"; or a tensor of shape (..., C, H, W), C = 1 or 3, values in [0, 1].
            Pillow rounds to 8 bits after every step, tensors are not rounded.
        steps: what to do. Resizing is bilinear with antialiasing; a crop larger than the picture pads with black.

    Returns:
        The same kind, values in [0, 1].
    """
    for step in steps:
        x = apply_step(x, step)
    return x


def apply_step(x: Picture, step: Step) -> Picture:
    """A single step; arguments as `apply_steps`."""
    from torchvision.transforms import functional as vision

    match step.what, step.size:
        case "resize", int() | tuple() as size:
            found = vision.resize(x, [size] if isinstance(size, int) else list(size), antialias=True)
            found = found.clamp(0, 1) if isinstance(found, Tensor) else found
        case "center-crop", int() as size:
            found = vision.center_crop(x, [size, size])
        case "pad", int() as size:
            found = vision.pad(x, [size])
        case "grey-to-rgb", None:
            found = to_channels(x, 3)
        case "rgb-to-grey", None:
            found = to_channels(x, 1)
        case _:
            raise ValueError(f"`step` must be one that this file documents, got {step}. Check name and size.")
    return found  # type: ignore[no-any-return]


def to_channels(x: Picture, channels: int) -> Picture:
    """Grey repeated three times for 3 channels, luminance for 1; what has them already stays as it is."""
    if not isinstance(x, Tensor):
        return x.convert("RGB" if channels == 3 else "L")
    if x.shape[-3] == channels:
        return x
    return as_channels(x, 1) if channels == 1 else x.expand(*x.shape[:-3], 3, *x.shape[-2:]).contiguous()


def fit_steps(channels: int | None, size: int | None) -> tuple[Step, ...]:
    """Channels first, then the shorter side to `size` and the middle square; None leaves that as it is."""
    colour = () if channels is None else (Step("grey-to-rgb" if channels == 3 else "rgb-to-grey"),)
    return colour + (() if size is None else (Step("resize", size), Step("center-crop", size)))


def told(steps: tuple[Step, ...]) -> str:
    """The steps in words, to go behind a source; empty where there are none."""
    words = [step.what if step.size is None else f"{step.what} {in_words(step.size)}" for step in steps]
    return f"; {', '.join(words)}" if words else ""


def in_words(size: int | tuple[int, int]) -> str:
    """32, or 480 x 480."""
    return str(size) if isinstance(size, int) else f"{size[0]} x {size[1]}"
