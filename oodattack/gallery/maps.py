"""Saliency maps of a run's saliency detectors, before the attack and after it, for the report's page."""

from collections.abc import Mapping

import torch
from torch import Tensor

from oodattack.data.rows import evenly
from oodattack.detectors import SalAgg
from oodattack.gallery.saved import Function, Saved, computed
from oodattack.report.page_maps import Maps
from oodattack.report.record import Key
from oodattack.runs.evidence import Cell

IMAGES = 6  # a cell
MOST_CELLS = 12  # that have maps


def maps_of(run: Saved, detectors: Mapping[str, Function] | None = None) -> dict[Key, Maps]:
    """Maps of the cells whose detector aggregates one.

    Args:
        run: the run.
        detectors: by name; without them there are no maps.
    """
    mine = [(r, c, f) for r, c in run.cells if isinstance(f := (detectors or {}).get(c.detector), SalAgg)]
    found = {result.key: maps_of_cell(run, cell, f) for result, cell, f in mine[:MOST_CELLS]}
    return {name: maps for name, maps in found.items() if maps is not None}


def maps_of_cell(run: Saved, cell: Cell, f: SalAgg) -> Maps | None:
    """Of some images of a cell; None where a map has no shape of its own."""
    side = next((s for s in cell.sides if s.images != "id"), cell.sides[0])
    shard = run.inputs.tensors(side.shards[0])
    some = evenly(len(shard["row"]), IMAGES)
    start, x_adv = run.inputs.rows(side.images, shard["row"][some]), shard["x_adv"][some]
    before, after = (on_image(computed(f.map, x, run.inputs.device), x) for x in (start, x_adv))
    if before is None or after is None:
        return None
    words = f"{f.method} maps"
    return Maps(words, start, before, shard["clean"][some], x_adv, after, shard["scores"][some])


def on_image(maps: Tensor, x: Tensor) -> Tensor | None:
    """Flat maps (k, n) with height and width, (k, h, w); a map a channel is brought to its norm over channels.

    Args:
        maps: raw.
        x: the images, (k, C, H, W); a coarse map has their proportions.
    """
    k, n = maps.shape
    channels, height, width = x.shape[1:]
    if n == channels * height * width:
        over_channels: Tensor = torch.linalg.vector_norm(maps.view(k, channels, height, width), dim=1)
        return over_channels
    h = max(round((n * height / width) ** 0.5), 1)
    return maps.view(k, h, n // h) if n % h == 0 else None
