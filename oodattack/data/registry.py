"""Data sets by name: the table of all of them, and `load`, which also reads files and user code."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from oodattack.data import idx, lsun, published, shipped
from oodattack.data.dataset import Dataset, Request, taken
from oodattack.data.disk import Room
from oodattack.data.embedded import EMBEDDED
from oodattack.data.files import FILES
from oodattack.data.images import Images, check_images, choose
from oodattack.data.protocols import steps_in_format, steps_of
from oodattack.data.steps import Step, fit_steps
from oodattack.data.tones import check_format
from oodattack.lookup import unknown

__all__ = ["DATASETS", "Dataset", "Request", "load"]


DATASETS: dict[str, Dataset] = {
    **EMBEDDED,
    **{name: idx.row(name) for name in idx.FAMILIES},
    **{name: shipped.row(name) for name in shipped.SHELVES},
    "lsun": lsun.row(),
    **{name: published.row(name) for name in published.ARCHIVES},
    **FILES,
}


def load(
    name: str,
    *,
    part: str = "test",
    samples: int | None = None,
    seed: int,
    channels: int | None = None,
    size: int | None = None,
    root: str | Path | None = None,
    protocol: str | None = None,
    at_most: bool = False,
    room: Room | None = None,
) -> Images:
    """Load a data set, no more of it than asked for.

    What has a format of its own keeps its pixels where nobody asks for another, except that pictures of different sizes
    get the protocol of their line in `DATASETS`. Where `channels` or `size` is asked for, they are brought to it: grey
    and colour first, then the shorter side is resized and the middle cut out.

    Args:
        name: a name in `DATASETS`; `npz:PATH` or `npz:PATH#KEY`, see `open_npz`; `folder:DIR`, see `classes`;
            `picture:PATH`; or `pkg.mod:callable`, user code that takes no argument and returns images x, or (x, y) with
            labels, as arrays or tensors in a layout of `to_images`.
        part: "test", or one of the other parts of the set.
        samples: how many images, >= 1: drawn without replacement, order kept. None for all of them; of a set that is
            drawn afresh, 200.
        seed: fixes that choice, and what is drawn afresh.
        channels: 1 or 3; None for what they have, and 1 for what the package makes. Arrays keep what they have.
        size: pixels a side, >= 8; None for what they have, and 32 for what the package makes. Arrays likewise.
        root: the folder with downloaded sets, --data-root.
        protocol: a name in `PROTOCOLS`; its steps are taken and nothing else is done to bring pictures to a format.
        at_most: take all images where there are fewer than `samples`.
        room: where to put many images; files are read piece by piece then. None: in memory.

    Raises:
        ValueError: an unknown name, part or protocol, a set that is not on disk, more samples than there are,
            unreadable files, values outside [0, 1].
    """
    kind = kind_of(name)
    dataset = DATASETS[kind]
    ask = Request(part, samples, channels, size, seed, find_root(root), protocol, at_most, name)
    check_request(ask, dataset)
    steps = steps_for(ask, kind, dataset)
    found = dataset.load(ask)
    rows = choose(found.total, samples, seed=seed, name=name, at_most=at_most)
    images = found.take(rows, steps) if room is None else taken(found, rows, steps, room)
    check_images(images.x, name)
    return images._replace(name=name)


def kind_of(name: str, argument: str = "name") -> str:
    """The line of `DATASETS` that is responsible for a name, which an argument of that name gave."""
    if name in DATASETS:
        return name
    if ":" not in name:
        raise unknown(argument, name, [*DATASETS])
    word = name.partition(":")[0]
    return next((kind for kind in FILES if kind.partition(":")[0] == word), "pkg.mod:callable")


def check_names(given: Mapping[str, Sequence[str | None]]) -> None:
    """Raise ValueError for a name of no data set; `given` are names, or None, by the arguments that they came from."""
    for argument, names in given.items():
        for name in names:
            if name is not None:
                kind_of(name, argument)


def part_to_fit(name: str) -> str:
    """The part of a set that one trains on: "train" where there is one."""
    return "train" if "train" in DATASETS[kind_of(name)].parts else "test"


def find_root(root: str | Path | None) -> Path | None:
    """--data-root as a folder that exists."""
    if root is None:
        return None
    found = Path(root).expanduser()
    if not found.is_dir():
        raise ValueError(f"`--data-root` must name a folder, got {str(root)!r}. Check the path.")
    return found


def check_request(ask: Request, dataset: Dataset) -> None:
    """Raise unless the set has the part, and numbers can be what they are."""
    if ask.part not in dataset.parts:
        raise ValueError(
            f"`part` must be one of {', '.join(dataset.parts)} for `{ask.name}`, got {ask.part!r}. "
            "Sets without parts are given one by one, each as a source of its own."
        )
    if ask.samples is not None and ask.samples < 1:
        raise ValueError(f"`samples` must be >= 1, got {ask.samples}. Leave it out for all images.")
    if ask.name in DATASETS or dataset.own_format:
        check_format(3 if ask.channels is None else ask.channels, 32 if ask.size is None else ask.size)


def steps_for(ask: Request, kind: str, dataset: Dataset) -> tuple[Step, ...]:
    """What is done to the images: the protocol asked for, else what brings them to the format asked for."""
    if ask.protocol is not None:
        return steps_of(ask.protocol, ask.name)
    if not dataset.own_format:
        return ()
    if kind == "picture:file" and ask.size is not None:
        return (*fit_steps(ask.channels, None), Step("resize", (ask.size, ask.size)))
    return steps_in_format(dataset.protocol, channels=ask.channels, size=ask.size)
