"""What a data set is before its images are in memory: a line of the registry, a request, a number of images to take."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from oodattack.data.disk import AT_ONCE, Room, copied, pieces
from oodattack.data.images import Images, check_one_size
from oodattack.data.steps import Step, apply_steps, told

DRAWN = 200  # images of a set that is drawn afresh, where nobody asks for another number
AFRESH = f"any number, {DRAWN} by default"
CHANNELS, SIZE = 1, 32  # of what the package makes itself, where nobody asks for another format


class Request(NamedTuple):
    """What is asked of a data set; see `load`."""

    part: str
    samples: int | None
    channels: int | None
    size: int | None
    seed: int
    root: Path | None = None
    protocol: str | None = None
    at_most: bool = False
    name: str = ""


class Opened(NamedTuple):
    """A data set of which nothing but the number of images needs to be known yet.

    Attributes:
        total: how many images there are.
        take: the images of these rows, int64 indices of shape (n,), after these steps.
    """

    total: int
    take: Callable[[Tensor, tuple[Step, ...]], Images]


class Dataset(NamedTuple):
    """A line of the registry.

    Attributes:
        name: as on the command line.
        source: where the pictures come from.
        description: what they show, and how many there are.
        load: the set behind a request, opened.
        parts: what `part` may be.
        afresh: whether it is drawn for every seed, as large as anybody likes.
        own_format: whether its pictures have a format of their own, and are brought to the one asked for.
        protocol: name of the protocol it gets where nobody asks for a protocol or a format; None keeps the pixels.
        same_classes: whether a label means the same in each of its parts.
    """

    name: str
    source: str
    description: str
    load: Callable[[Request], Opened]
    parts: tuple[str, ...] = ("test",)
    afresh: bool = False
    own_format: bool = False
    protocol: str | None = None
    same_classes: bool = True


def opened(images: Images) -> Opened:
    """Images that are in memory already."""

    def take(rows: Tensor, steps: tuple[Step, ...]) -> Images:
        x = apply_steps(images.x if len(rows) == len(images.x) else images.x[rows], steps)
        y = None if images.y is None else images.y[rows]
        return Images(images.name, x, y, images.source + told(steps))

    return Opened(len(images.x), take)


def taken(found: Opened, rows: Tensor, steps: tuple[Step, ...], room: Room) -> Images:
    """The images of these rows, read piece by piece into room of their own.

    Raises:
        ValueError: as `take`, and images of several sizes.
    """
    first = found.take(rows[:AT_ONCE], steps)
    if len(rows) <= AT_ONCE:
        return first
    x = room(first.x.new_empty(()).expand(len(rows), *first.x.shape[1:]))
    labels = None if first.y is None else first.y.new_empty(len(rows))
    for part in pieces(len(rows)):
        images = found.take(rows[part], steps) if part.start else first
        check_one_size(((x.shape[2], x.shape[3]), (images.x.shape[2], images.x.shape[3])), images.name)
        if images.x.shape[1] > x.shape[1]:  # colour after nothing but grey
            x = copied(x.expand(-1, images.x.shape[1], -1, -1), room)
        x[part] = images.x
        if labels is not None and images.y is not None:
            labels[part] = images.y  # a list of small tensors would keep the large ones' memory from being used again
        else:
            labels = None
    return first._replace(x=x, y=labels)


def drawn(name: str, source: str, description: str, make: Callable[..., Tensor]) -> Dataset:
    """A set that `make(rows, channels=, size=, seed=)` draws afresh for every seed, each row for itself."""

    def draw(ask: Request) -> Opened:
        n = DRAWN if ask.samples is None else ask.samples

        def take(rows: Tensor, steps: tuple[Step, ...]) -> Images:
            x = make(rows.tolist(), channels=ask.channels or CHANNELS, size=ask.size or SIZE, seed=ask.seed)
            return Images(name, apply_steps(x, steps), None, source + told(steps))

        return Opened(n, take)

    return Dataset(name, source, f"{description}; {AFRESH}", draw, afresh=True)
