"""Pictures in a folder: one sub-folder a class, or all in one place."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oodattack.data.gather import Pictures

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def classes(folder: Path, name: str, source: str, *, upright: bool = False, known: Sequence[str] = ()) -> Pictures:
    """The layout of torchvision's ImageFolder, FOLDER/CLASS/.../picture.png, or FOLDER/picture.png without classes.

    Args:
        folder: where to look. Hidden files and folders are passed over.
        name: what errors call it.
        source: for the report.
        upright: whether the camera's orientation tag turns a picture; torchvision ignores it.
        known: sub-folders that have the first labels, whether or not they are there.

    Returns:
        Pictures by sub-folder and path; labels are the places of the sub-folders in the alphabet, those of `known`
        first; none if it is flat.

    Raises:
        ValueError: no such folder, no picture in it, or pictures both beside and inside sub-folders.
    """
    if not folder.is_dir():
        raise ValueError(f"`{name}` must name a folder, got none at {folder}. Check the path.")
    within = subfolders(folder)
    labels = {entry: label for label, entry in enumerate(dict.fromkeys([*known, *within]))}
    labelled = [(path, labels[entry]) for entry in within for path in pictures_below(folder / entry)]
    flat = [entry for entry in sorted(folder.iterdir()) if is_picture(entry.name) and entry.is_file()]
    if flat and labelled:
        raise ValueError(
            f"`{name}` must be flat or have a sub-folder a class, got both. Move the {len(flat)} pictures beside them."
        )
    return listed([(path, None) for path in flat] or labelled, name, source, upright=upright, folder=folder)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder that are not hidden, in alphabetical order; none where it is none."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def all_below(folder: Path, name: str, source: str) -> Pictures:
    """Every picture in the folder and its sub-folders, by path, without labels. Arguments and errors as `classes`."""
    return listed([(path, None) for path in pictures_below(folder)], name, source, upright=False, folder=folder)


def leaves(folder: Path, name: str, source: str) -> Pictures:
    """Every folder that has pictures is a class, in alphabetical order of its path. Arguments and errors as `classes`.

    Differs from torchvision's Omniglot, whose classes are in the order in which the file system lists them.
    """
    paths = pictures_below(folder)
    labels = {place: label for label, place in enumerate(dict.fromkeys(path.parent for path in paths))}
    return listed([(path, labels[path.parent]) for path in paths], name, source, upright=False, folder=folder)


def listed(
    files: Sequence[tuple[Path, int | None]], name: str, source: str, *, upright: bool, folder: Path
) -> Pictures:
    """Files and their labels as pictures."""
    if not files:
        endings = ", ".join(ENDINGS)
        raise ValueError(f"`{name}` must hold pictures ({endings}), got none in {folder}. Check the path.")

    def read(row: int) -> tuple["Image", int | None]:
        path, label = files[row]
        return open_picture(path, upright=upright), label

    return Pictures(name, source, len(files), read)


def pictures_below(folder: Path) -> list[Path]:
    """All pictures below a folder, folder by folder in alphabetical order; links to folders are not followed."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        found += [Path(place, entry) for entry in sorted(files) if is_picture(entry)]
    return found


def is_picture(name: str) -> bool:
    """Whether a file name ends as a picture's and is not hidden."""
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def open_picture(path: Path, *, upright: bool) -> "Image":
    """A picture from disk, its pixels decoded and the file closed again."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            file.load()
            return ImageOps.exif_transpose(file) if upright else file.copy()
    except (OSError, SyntaxError, EOFError) as error:
        if getattr(error, "filename", None) or repr(str(path)) in str(error):
            raise
        raise OSError(f"{' '.join(str(error).split())} in {path}") from error
