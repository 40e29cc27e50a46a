"""Data sets by name: the literal dict, and `load`, which also reads array files and user code."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from oodattack.data.arrays import read_npz, to_images
from oodattack.data.checkerboards import checkerboards
from oodattack.data.digits import SHARES, SOURCE, digits, digits_6_9
from oodattack.data.far_mix import far_mix
from oodattack.data.images import Images, check_images, subset
from oodattack.data.noise import noise
from oodattack.data.photos import photos
from oodattack.data.spirals import spirals
from oodattack.data.tones import check_format
from oodattack.lookup import summary, unknown, user_callable

DRAWN = 200  # images of a set that is drawn afresh, where nobody asks for another number
AFRESH = f"any number, {DRAWN} by default"


class Request(NamedTuple):
    """What is asked of a data set; see `load`."""

    part: str
    samples: int | None
    channels: int
    size: int
    seed: int


class Dataset(NamedTuple):
    """A line of the registry.

    Attributes:
        name: as on the command line.
        source: where the pictures come from.
        description: what they show, and how many there are.
        load: all images of a fixed set, or as many as asked for of one that is drawn afresh.
        parts: what `part` may be.
        afresh: whether it is drawn for every seed, as large as anybody likes.
    """

    name: str
    source: str
    description: str
    load: Callable[[Request], Images]
    parts: tuple[str, ...] = ("test",)
    afresh: bool = False


def drawn(name: str, source: str, description: str, make: Callable[..., Tensor]) -> Dataset:
    """A set that `make(n, channels=, size=, seed=)` draws afresh for every seed."""

    def draw(ask: Request) -> Images:
        n = DRAWN if ask.samples is None else ask.samples
        return Images(name, make(n, channels=ask.channels, size=ask.size, seed=ask.seed), None, source)

    return Dataset(name, source, f"{description}; {AFRESH}", draw, afresh=True)


DATASETS: dict[str, Dataset] = {
    "digits": Dataset(
        "digits",
        SOURCE,
        "handwritten digits 0-5, 1083 in three parts; in-distribution",
        lambda ask: digits(ask.part, channels=ask.channels, size=ask.size),
        parts=tuple(SHARES),
    ),
    "digits-6-9": Dataset(
        "digits-6-9",
        SOURCE,
        "handwritten digits 6-9, 714; near OOD",
        lambda ask: digits_6_9(channels=ask.channels, size=ask.size),
    ),
    "photos": drawn("photos", "scikit-learn load_sample_images", "patches of two photographs; far OOD", photos),
    "noise": drawn("noise", "generated", "uniform noise in every pixel; far OOD", noise),
    "spirals": drawn("spirals", "generated", "colour and grey spirals, half each; far OOD", spirals),
    "checkerboards": drawn("checkerboards", "generated", "2 x 2 and 8 x 8 cells, half each; far OOD", checkerboards),
    "far-mix": drawn("far-mix", "the four before", "photos, noise, spirals, checkerboards, a quarter each", far_mix),
}


def load(
    name: str, *, part: str = "test", samples: int | None = None, seed: int, channels: int = 1, size: int = 32
) -> Images:
    """Load a data set.

    Args:
        name: a name in `DATASETS`; `npz:PATH`, see `read_npz`; or `pkg.mod:callable`, user code that takes no argument
            and returns images x, or (x, y) with labels, as arrays or tensors in a layout of `to_images`.
        part: "test", or one of the other parts of `digits`. All other sets are "test" as a whole.
        samples: how many images, >= 1: drawn without replacement, order kept. None for all of them; of a set that is
            drawn afresh, 200.
        seed: fixes that choice, and what is drawn afresh.
        channels: 1 or 3, of the sets in `DATASETS`; files and user code keep what they have.
        size: pixels a side, >= 8; likewise.

    Raises:
        ValueError: an unknown name or part, more samples than there are, unreadable files, values outside [0, 1].
    """
    parts = DATASETS[name].parts if name in DATASETS else ("test",)
    if name not in DATASETS and ":" not in name:
        raise unknown("name", name, [*DATASETS, "npz:PATH", "pkg.mod:callable"])
    if part not in parts:
        raise ValueError(
            f"`part` must be one of {', '.join(parts)} for `{name}`, got {part!r}. "
            "Sets without parts are given one by one, each as a source of its own."
        )
    if samples is not None and samples < 1:
        raise ValueError(f"`samples` must be >= 1, got {samples}. Leave it out for all images.")
    if name in DATASETS:
        check_format(channels, size)
        images = DATASETS[name].load(Request(part, samples, channels, size, seed))
    elif name.startswith("npz:"):
        images = read_npz(name.removeprefix("npz:"))
    else:
        images = call(name)
    check_images(images.x, name)
    return subset(images, samples, seed=seed)


def call(source: str) -> Images:
    """The images that the user code named `source` returns."""
    try:
        found = user_callable(source)()
    except ValueError:
        raise
    except Exception as error:  # whatever the user's code does
        raise ValueError(f"`{source}` must return images, got {summary(error)}. Correct it.") from error
    if isinstance(found, Images):
        found = (found.x, found.y)
    x, y = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    x, y = (array.detach().cpu().numpy() if isinstance(array, Tensor) else array for array in (x, y))
    return to_images(x, y, source)
