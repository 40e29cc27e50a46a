"""Checkpoints: two .safetensors files and a JSON that names them, replaced last, so that one is always complete.

The JSON says what was trained and how far; a checkpoint of anything else is refused.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from oodattack.train.files import sha256, tensor_bytes
from oodattack.train.tree import pack, unpack
from oodattack.whole_file import replace_file

FORMAT = 2
NAME = "checkpoint.json"
OWN = re.compile(r"((weights|state)-\d+\.safetensors|checkpoint\.json)(\.\d+\.partial)?")  # files that may be removed
REMEDY = "Delete the folder to begin anew."


class Checkpoint(NamedTuple):
    """What was read."""

    weights: dict[str, Tensor]
    state: Any


def write(folder: Path, identity: Mapping[str, Any], weights: Mapping[str, Tensor], state: Any, at: int) -> None:
    """Write a checkpoint, then remove the one before.

    Args:
        folder: made if missing; files of others in it are left alone.
        identity: what is trained, see `identity_of`.
        weights: of the network.
        state: everything else, see `pack`.
        at: steps done in all, in the names of the files; grows.

    Raises:
        ValueError: the folder cannot be written to, or a number of the state is not finite.
    """
    tensors: dict[str, Tensor] = {}
    node = pack(state, tensors)
    files = {f"weights-{at}.safetensors": tensor_bytes(weights), f"state-{at}.safetensors": tensor_bytes(tensors)}
    record = {
        "format": FORMAT,
        "objective": identity["recipe"]["objective"],
        "classes": identity["classes"],
        "steps": at,
        "files": {name: sha256(content) for name, content in files.items()},
        "identity": dict(identity),
        "state": node,
    }
    words = json.dumps(record | {"sha256": digest(record)}, indent=1, allow_nan=False) + "\n"
    try:
        for name, content in files.items():
            replace_file(folder / name, content)
        replace_file(folder / NAME, words.encode())
        for old in folder.iterdir():
            if OWN.fullmatch(old.name) and old.name not in (*files, NAME):
                old.unlink()
    except OSError as error:
        raise ValueError(f"{folder}: checkpoint folder must be writable, got {error.strerror}. Name another.") from None


def clear(folder: Path) -> None:
    """Remove a checkpoint, and the folder if nothing else is in it."""
    with suppress(OSError):
        for old in sorted(folder.iterdir(), key=lambda path: path.name != NAME):  # first what names the others
            if OWN.fullmatch(old.name):
                old.unlink()
        folder.rmdir()


def read(folder: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint in a folder, None where there is none.

    Raises:
        ValueError: a file that is missing or damaged, or a checkpoint of something else.
    """
    from safetensors.torch import load

    try:
        record = json.loads((folder / NAME).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError):
        raise unreadable(folder) from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{folder / NAME}: `format` must be {FORMAT}, got another. {REMEDY}")
    expected, found, files = record.pop("sha256", None), record.get("identity"), record.get("files")
    if not isinstance(found, dict) or not isinstance(files, dict) or len(files) != 2:  # weights and the rest
        raise unreadable(folder)
    try:
        refuse_other(folder, found, identity)
        whole = digest(record) == expected
    except RecursionError:
        raise unreadable(folder) from None
    if not whole:
        raise ValueError(f"{folder / NAME}: must be as it was written, got another sha256: it is damaged. {REMEDY}")
    parts = []
    for name, expected in files.items():
        try:
            content = (folder / name).read_bytes()
        except OSError:
            raise ValueError(f"{folder / name}: must be there, but it is not. {REMEDY}") from None
        if sha256(content) != expected:
            raise ValueError(f"{folder / name}: must have the sha256 of {NAME}, got another: it is damaged. {REMEDY}")
        parts.append(content)
    try:
        weights, tensors = (load(content) for content in parts)
        return Checkpoint(weights, unpack(record["state"], tensors))
    except Exception:  # whatever a record that was tampered with makes the readers raise
        raise unreadable(folder) from None


def digest(record: Mapping[str, Any]) -> str:
    """sha256 of a record, without the entry that holds it."""
    return sha256(json.dumps(record).encode())


def unreadable(folder: Path) -> ValueError:
    """The error for a record that says nothing."""
    return ValueError(f"{folder / NAME}: must be as it was written, but it cannot be read. {REMEDY}")


def refuse_other(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first field in which a checkpoint differs from what is to be trained."""
    found, wanted = flat(found), flat(json.loads(json.dumps(wanted)))
    for key in {**wanted, **found}:
        if found.get(key) != wanted.get(key):
            raise ValueError(
                f"{folder}: checkpoint must have `{key}` {wanted.get(key)!r}, got {found.get(key)!r}. "
                f"Train what it was begun with, or name another output. {REMEDY}"
            )


def flat(tree: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """A nested dict as one level with dots in the keys."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flat(value, f"{at}{key}.") if isinstance(value, Mapping) else {f"{at}{key}": value}
    return out
