"""Saliency maps of a few rows as a picture: image and map, before the attack and after it."""

import io
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from oodattack.report.sheet import GAP, INK, LEFT, PALE, PAPER, TILE, font, grid, picture

if TYPE_CHECKING:
    from PIL.Image import Image

ROWS = ("start", "its map", "adversarial", "its map")
TOP, SCORES, BAR = 30, 38, 12  # pixels: of the title, of the scores, of the scale
RAMP = ((0, 34, 78), (124, 123, 120), (255, 234, 70))  # dark blue, grey, yellow: lightness rises evenly for every eye


class Maps(NamedTuple):
    """Images and their saliency maps. Images (k, C, H, W) in [0, 1], maps (k, h, w), scores (k,).

    Attributes:
        method: what the maps are, in words.
        start: images before the attack.
        start_maps: of these; their signs do not matter.
        start_scores: of these.
        x_adv: images after it.
        x_adv_maps: of these.
        x_adv_scores: of these.
    """

    method: str
    start: Tensor
    start_maps: Tensor
    start_scores: Tensor
    x_adv: Tensor
    x_adv_maps: Tensor
    x_adv_scores: Tensor


def maps_png(maps: Maps) -> bytes:
    """The picture: a column for each image; all maps on one scale, from 0 to the largest magnitude."""
    from PIL import Image, ImageDraw

    before, after = magnitudes(maps)
    largest = max(before.max().item(), after.max().item())
    below = TOP + len(ROWS) * (TILE + GAP)
    sheet = Image.new("RGB", (LEFT + max(len(before), 3) * (TILE + GAP) + GAP, below + SCORES + BAR + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 8), f"{maps.method}: magnitude", INK, font=font(13))
    rows = [
        (name, [picture(image) if image.ndim == 3 else coloured(image / (largest or 1.0)) for image in images])
        for name, images in zip(ROWS, (maps.start, before, maps.x_adv, after), strict=True)
    ]
    scores = {"score of start": maps.start_scores, "after": maps.x_adv_scores}
    grid(sheet, TOP, rows, {name: [f"{v:.4g}" for v in some.tolist()] for name, some in scores.items()})
    scale = coloured(torch.linspace(0, 1, TILE).expand(1, TILE)).resize((TILE, BAR))
    sheet.paste(scale, (LEFT, below + SCORES))
    draw.text((GAP, below + SCORES - 1), "scale of the maps", INK, font=font(12))
    draw.text((LEFT + TILE + GAP, below + SCORES - 1), f"0 to {largest:.3g}", PALE, font=font(12))
    out = io.BytesIO()
    sheet.save(out, format="PNG")
    return out.getvalue()


def maps_words(maps: Maps) -> str:
    """The same for those who do not see it: where most of a map is, before and after."""
    before, after = magnitudes(maps)
    moved = sum(peak(a) != peak(b) for a, b in zip(before, after, strict=True))
    times = (after.flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1).clamp(min=1e-30)).median().item()
    n = len(before)
    return (
        f"{maps.method} of {n} image{'s' if n > 1 else ''}, before and after the attack. The norm of the map is "
        f"{times:.3g} times what it was, in the median; its largest value moved to another ninth of the image in "
        f"{moved} of {n}."
    )


def magnitudes(maps: Maps) -> tuple[Tensor, Tensor]:
    """|s| before and after."""
    return maps.start_maps.abs().double(), maps.x_adv_maps.abs().double()


def coloured(values: Tensor) -> "Image":
    """Values (h, w) in [0, 1] along the ramp, as a tile with hard pixels."""
    from PIL import Image

    stops = torch.tensor(RAMP, dtype=torch.float64)
    place = values.double().clamp(0, 1)[..., None] * (len(stops) - 1)
    low = place.floor().clamp(max=len(stops) - 2).long()
    mixed = stops[low[..., 0]] + (place - low) * (stops[low[..., 0] + 1] - stops[low[..., 0]])
    pixels = mixed.round().to(torch.uint8).contiguous()
    return Image.fromarray(pixels.numpy()).resize((TILE, TILE), Image.Resampling.NEAREST)


def peak(values: Tensor) -> tuple[int, int]:
    """The ninth of the image, by rows and columns of three, in which the largest value is."""
    h, w = values.shape
    y, x = divmod(int(values.flatten().argmax()), w)
    return y * 3 // h, x * 3 // w
