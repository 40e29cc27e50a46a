"""Contact sheets: a few rows of one cell as a PNG, target, start, adversarial image and difference below each other."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from oodattack.report.record import Result
from oodattack.whole_file import file_name

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

TILE, GAP, LEFT, TOP, BOTTOM, LINE = 96, 8, 124, 46, 68, 15  # pixels
INK, PALE, FRAME, PAPER = (20, 20, 20), (110, 110, 110), (200, 200, 200), (255, 255, 255)


class Shown(NamedTuple):
    """A few rows of one cell. Images (k, C, H, W) in [0, 1], C 1 or 3, the rest (k,).

    Attributes:
        result: the cell's record.
        reference: the matched target; else an ID image for comparison.
        start: images before the attack.
        x_adv: images after it.
        reference_scores: NaN where not known.
        start_scores: of `start`.
        x_adv_scores: of `x_adv`.
        mape: None where nothing was matched.
        side: "ood" or "id", the set that `start` is from.
    """

    result: Result
    reference: Tensor
    start: Tensor
    x_adv: Tensor
    reference_scores: Tensor
    start_scores: Tensor
    x_adv_scores: Tensor
    mape: Tensor | None
    side: str


def contact_sheet(
    shown: Shown, *, reference_name: str = "an ID image", notes: Mapping[str, Sequence[str]] | None = None
) -> "Image":
    """Draw one sheet.

    Args:
        shown: the rows.
        reference_name: what the reference is where nothing was matched.
        notes: more lines below the scores, name -> a few letters for each row.
    """
    from PIL import Image, ImageDraw

    delta, mape = shown.x_adv - shown.start, shown.mape
    largest = delta.abs().max().item()
    times = 1 / largest if largest > 0 else 1.0
    rows = [
        ("target ID image" if mape is not None else reference_name, shown.reference),
        ("start (OOD)" if shown.side == "ood" else "start (ID)", shown.start),
        ("adversarial", shown.x_adv),
        (f"difference\ntimes {times:.3g}\n(grey: none)", 0.5 + delta * times / 2),
    ]
    lines = {
        "score of target" if mape is not None else "score of ID image": [
            "-" if math.isnan(v) else f"{v:.4g}" for v in shown.reference_scores.tolist()
        ],
        "score of start": [f"{v:.4g}" for v in shown.start_scores.tolist()],
        "score after attack": [f"{v:.4g}" for v in shown.x_adv_scores.tolist()],
    }
    if mape is not None:
        lines["MAPE"] = [f"{100 * v:.3g} %" for v in mape.tolist()]
    lines |= {name: list(texts) for name, texts in (notes or {}).items()}
    width = LEFT + max(len(delta), 4) * (TILE + GAP) + GAP
    height = TOP + len(rows) * (TILE + GAP) + BOTTOM + LINE * len(notes or {})
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 8), title(shown.result), INK, font=font(14))
    draw.text((GAP, 26), shown.result.attack, PALE, font=font(12))
    grid(sheet, TOP, [(name, [picture(image) for image in images]) for name, images in rows], lines, outline=FRAME)
    return sheet


def grid(
    sheet: "Image",
    top: int,
    rows: Sequence[tuple[str, Sequence["Image"]]],
    lines: Mapping[str, Sequence[str]],
    outline: tuple[int, int, int] | None = None,
) -> None:
    """Draw rows of tiles, each with its name at the left, and lines of text below them: a column for each image."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(sheet)
    for i, (name, tiles) in enumerate(rows):
        y = top + i * (TILE + GAP)
        draw.text((GAP, y + TILE // 2), name, INK, font=font(12), anchor="lm")
        for j, tile in enumerate(tiles):
            x = LEFT + j * (TILE + GAP)
            sheet.paste(tile, (x, y))
            if outline is not None:
                draw.rectangle((x - 1, y - 1, x + TILE, y + TILE), outline=outline)
    below = top + len(rows) * (TILE + GAP)
    for i, (name, texts) in enumerate(lines.items()):
        draw.text((GAP, below + LINE * i), name, INK, font=font(12))
        for j, text in enumerate(texts):
            draw.text((LEFT + j * (TILE + GAP), below + LINE * i), text, INK, font=font(12))


def title(result: Result) -> str:
    """Who was attacked how, and what was left."""
    return f"{result.where}: AUROC {result.clean.auroc:.3f}, then {result.attacked.auroc:.3f}: {result.verdict}"


def font(size: int) -> "FreeTypeFont | ImageFont":
    """Pillow's own font, so that a sheet looks the same on every machine; below 12 pixels it loses word spaces."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def picture(image: Tensor) -> "Image":
    """(C, H, W) in [0, 1] -> a TILE x TILE picture; small ones keep hard pixels."""
    from PIL import Image

    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).contiguous()
    small = max(pixels.shape[:2]) <= TILE
    method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return Image.fromarray(pixels.numpy()).resize((TILE, TILE), method)


def sheet_path(result: Result, folder: Path) -> Path:
    """sheets/OOD/THREAT/DETECTOR@NETWORK.png, see `file_name`."""
    parts = (result.ood, result.threat, result.name)
    ood, threat, name = (file_name(part) for part in parts)
    return folder / "sheets" / ood / threat / f"{name}.png"
