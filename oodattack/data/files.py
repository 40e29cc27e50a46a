"""What has no name of its own: files, folders and user code, found by the word before the colon."""

from pathlib import Path

from torch import Tensor

from oodattack.data.arrays import open_npz, to_images
from oodattack.data.dataset import Dataset, Opened, Request, opened
from oodattack.data.folders import classes, open_picture
from oodattack.data.gather import Pictures, unread
from oodattack.data.images import Images
from oodattack.faults import fault
from oodattack.lookup import user_callable


def open_folder(ask: Request) -> Opened:
    """`folder:DIR`; see `classes`."""
    return unread(classes(Path(path_in(ask.name)).expanduser(), ask.name, ask.name, upright=True))


def open_one(ask: Request) -> Opened:
    """`picture:PATH`, one image; a format asked for stretches it, as it does a start image."""
    path = Path(path_in(ask.name)).expanduser()
    if not path.is_file():
        raise ValueError(f"`{ask.name}` must name a file, got none there. Check the path.")
    return unread(Pictures(ask.name, ask.name, 1, lambda _: (open_picture(path, upright=True), None)))


def path_in(name: str) -> str:
    """PATH of `kind:PATH`."""
    return name.partition(":")[2]


def call(source: str) -> Images:
    """The images that the user code named `source` returns."""
    try:
        found = user_callable(source)()
    except ValueError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code does
        raise ValueError(f"`{source}` must return images, got {fault(error)}. Correct it.") from error
    if isinstance(found, Images):
        found = (found.x, found.y)
    if isinstance(found, tuple) and len(found) != 2:
        raise ValueError(f"`{source}` must return images or (images, labels), got a tuple of {len(found)}. Correct it.")
    x, y = found if isinstance(found, tuple) else (found, None)
    x, y = (array.detach().cpu().numpy() if isinstance(array, Tensor) else array for array in (x, y))
    return to_images(x, y, source)


# user code goes last: its word may be any
FILES: dict[str, Dataset] = {
    "npz:file[#key]": Dataset(
        "npz:file[#key]",
        "your file",
        "an array of an .npz archive: the key, or `images`, or the only one; labels as `labels`; or an .npy file",
        lambda ask: open_npz(path_in(ask.name)),
    ),
    "folder:dir": Dataset(
        "folder:dir", "your folder", "pictures in a folder, or in one sub-folder a class", open_folder, own_format=True
    ),
    "picture:file": Dataset("picture:file", "your file", "one picture", open_one, own_format=True),
    "pkg.mod:callable": Dataset(
        "pkg.mod:callable",
        "your code",
        "a function that returns images x, or (x, y) with labels",
        lambda ask: opened(call(ask.name)),
    ),
}
