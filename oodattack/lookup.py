"""Finding what a name stands for: suggestions for a misspelt one, user code behind `pkg.mod:name`."""

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any


def unknown(argument: str, name: str, names: Sequence[str]) -> ValueError:
    """The error for a name that is not among `names`: the closest, or a file, comes first, as the list may be long."""
    same = [known for known in names if known.lower() == name.lower()]
    close = same or difflib.get_close_matches(name, names, n=1)
    rule = f"`{argument}` must be one of {', '.join(names)}, got {name!r}."
    meant = on_disk(name, names) or "".join(close)
    return ValueError(f"Did you mean {meant!r}? {rule}" if meant else f"{rule} Pick one of them.")


def on_disk(name: str, names: Sequence[str]) -> str:
    """What was meant by "mine", "mine.score", "id.npz" or "dir": "mine:NAME", "mine:score", and so on; else nothing."""
    if "pkg.mod:callable" in names:
        module = name.removesuffix(".py")
        if module.isidentifier() and os.path.isfile(f"{module}.py"):
            return f"{module}:NAME"
        module, _, attribute = name.rpartition(".")
        if attribute.isidentifier() and os.path.isfile(f"{module.replace('.', '/')}.py"):
            return f"{module}:{attribute}"
    if "npz:file[#key]" in names and (os.path.exists(name) or name.endswith(".npz")):
        return f"folder:{name}" if os.path.isdir(name) else f"npz:{name}"
    return ""


def user_callable(source: str) -> Callable[..., Any]:
    """Import the callable that `pkg.mod:name` stands for, looking in the current directory first.

    This runs the user's code, and is the only way to.

    Raises:
        ValueError: no such module or attribute, the module fails while it is imported, or it is nothing to call.
    """
    module_name, _, attribute = source.partition(":")
    if module_name.endswith(".py") or not all(w.isidentifier() for w in [*module_name.split("."), attribute]):
        raise ValueError(f"`{source}` must read pkg.mod:name, got another form. Use dots and one colon, no .py.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"`{source}` must name an importable module, got: {error}. Check name and folder.") from error
    except (Exception, SystemExit) as error:  # whatever the user's module does
        raise ValueError(f"`{source}` must import, got {summary(error)}. Correct the module.") from error
    if not hasattr(module, attribute):
        close = difflib.get_close_matches(attribute, [name for name in vars(module) if not name.startswith("_")], n=1)
        remedy = f"Did you mean {close[0]!r}?" if close else "Check the spelling."
        raise ValueError(f"`{source}` must name something in {module_name}, got no such name. {remedy}")
    found = getattr(module, attribute)
    if not callable(found):
        remedy = "Wrap it in a function."
        if callable(getattr(found, "postprocess", None)):
            remedy = "Name what oodattack.adapters.openood(it, network) returns."
        raise ValueError(f"`{source}` must be callable, got {type(found).__name__}. {remedy}")
    return found  # type: ignore[no-any-return]


def summary(error: BaseException, most: int = 200) -> str:
    """An exception in one line: its kind and the beginning of its message, without what steers a terminal."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", str(error))  # as torch underlines
    message = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", plain).split()).rstrip(". ")
    message = message if len(message) <= most else f"{message[:most].rpartition(' ')[0] or message[:most]} [...]"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
