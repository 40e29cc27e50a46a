"""Evidence as files: images and scores before and after the attacks, a thousand rows at a time."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from oodattack.data.disk import forget_pages
from oodattack.evaluation import Attacked, to_8_bits
from oodattack.runs.evidence import INDEX, ROWS_A_FILE, Cell, Evidence, Side, part_name
from oodattack.whole_file import file_name, write_file

PER_ROW = (  # fields of a side that are written as they are
    "scores", "scores_8bit", "distance", "queries", "gradients", "zero_gradients", "non_finite", "clean_best",
    "stopped", "mape", "crossing",
)  # fmt: skip


class Shards:
    """Writes evidence into a run directory and remembers what is where."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = Evidence()
        self._written: dict[tuple[str, str, str], list[str]] = {}

    def images(self, name: str, x: Tensor) -> None:
        """Write a set of images: as 8-bit values where nothing is lost by it."""
        files = []
        for first in range(0, len(x), ROWS_A_FILE):
            block = x[first : first + ROWS_A_FILE].cpu()
            short = to_8_bits(block)
            exact = torch.equal(short.to(block.dtype) / 255, block)
            files.append(self._write(Path("inputs") / folder_of(name), first, {"images": short if exact else block}))
        self.index.inputs[name] = files

    def clean(self, detector: str, images: str, scores: Tensor) -> None:
        """Write a detector's scores of a set before any attack."""
        where = Path("clean") / folder_of(images) / file_name(detector)
        self.index.clean.setdefault(detector, {})[images] = self._write(where, 0, {"scores": scores})

    def side(self, attacked: Attacked) -> None:
        """Write one attacked side, unless it is the same as that of an earlier cell."""
        key = (attacked.detector, attacked.threat.name, attacked.name)
        if key not in self._written:
            parts = [file_name(attacked.threat.name), file_name(attacked.detector)]
            where = Path("shards") / folder_of(attacked.name) / Path(*parts)
            n = len(attacked.side.scores)
            self._written[key] = [
                self._write(where, first, rows_of(attacked, slice(first, min(first + ROWS_A_FILE, n))))
                for first in range(0, n, ROWS_A_FILE)
            ]
        side = Side(images=attacked.images, shards=self._written[key])
        same = (attacked.detector, attacked.threat.name, attacked.ood)
        for cell in self.index.cells[-1:]:
            if cell.key == same:
                cell.sides.append(side)
                return
        self.index.cells.append(Cell(detector=same[0], threat=same[1], ood=same[2], sides=[side]))

    def finish(self) -> None:
        """Write the index."""
        write_file(self.folder / INDEX, (self.index.model_dump_json(indent=1) + "\n").encode())

    def _write(self, where: Path, first: int, tensors: Mapping[str, Tensor]) -> str:
        """Write one file; its name, relative to the run directory."""
        from safetensors.torch import save

        name = where / part_name(first)
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{path.parent}: must be a folder to write in, got {error.strerror}. Check it.") from None
        write_file(path, save({key: torch.clone(t.cpu()).contiguous() for key, t in tensors.items()}))
        forget_pages()
        return name.as_posix()


def rows_of(attacked: Attacked, rows: slice) -> dict[str, Tensor]:
    """What one file holds about some rows of a side."""
    side = attacked.side
    assert side.images is not None
    x_adv = side.images[rows]
    found = {
        "row": torch.arange(rows.start, rows.stop),
        "x_adv": x_adv,
        "x_8bit": to_8_bits(x_adv) if side.images_8bit is None else side.images_8bit[rows],
        "clean": attacked.clean[rows],
    }
    for name in PER_ROW:
        value = getattr(side, name)
        if value is not None:
            found[name] = value[rows]
    if side.start is not None and side.start is not attacked.x:  # the threat model starts from another one's images
        found["start"] = side.start[rows]
    if attacked.targets is not None:
        found["target"] = attacked.targets[rows]
    return found


def folder_of(name: str) -> Path:
    """The folder of a set: "ood/NAME" has two levels."""
    kind, _, rest = name.partition("/")
    return Path(file_name(kind), file_name(rest)) if rest else Path(file_name(kind))
