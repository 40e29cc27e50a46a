"""Threat models from TOML files: those that ship, by name, and any other by path."""

import tomllib
from pathlib import Path
from typing import Any

from oodattack.lookup import summary, unknown
from oodattack.threat.group import Suite, Sweep, Threat, check_restarts, members_of
from oodattack.threat.model import ThreatModel
from oodattack.threat.radius import at_radii
from oodattack.threat.strict import Misfit

LONGEST = 1_000_000  # bytes of a file
DOTS = 1000  # in a line
MEMBERS = 100  # of a suite, by name


def preset_folder() -> Path:
    """The folder of the shipped threat models, in an installed package or a checkout."""
    installed = Path(__file__).parents[1] / "threat_models"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "threat_models"


def presets() -> dict[str, Path]:
    """Name -> file of every shipped threat model."""
    return {path.stem: path for path in sorted(preset_folder().glob("*.toml"))}


def read_threat(name: str | Path) -> Threat:
    """Read a shipped threat model by name, or any TOML file by path.

    NAME@EPS, such as "ood-aa@2/255", is the same at another radius, NAME@EPS,EPS,... a sweep over radii.

    Raises:
        ValueError: no such name or file, or a field that is missing, unknown or out of range. The message names file,
            field, rule, value and remedy in one line.
    """
    threat, at, radii = str(name).rpartition("@")
    if not at or radii.endswith(".toml"):  # which may have an @ in its own name
        return _read(_find(name))
    return at_radii(_read(_find(threat)), radii)


def own_name(threat: Threat) -> Threat:
    """The threat untouched: a report knows it, and its members, by name alone.

    Raises:
        ValueError: a name is that of a shipped threat model with other content.
    """
    known = presets()
    for t in (threat, *members_of(threat)):
        if t.name in known and t != (shipped := read_threat(t.name)):
            changed = [f"`{f}`" for f in type(t).model_fields if getattr(t, f) != getattr(shipped, f, None)]
            raise ValueError(
                f"`threats` must not bear the name of a shipped threat model with other content, got {t.name!r} with "
                f"{changed[0]} changed. Give it another `name`, or the file another one."
            )
    return threat


def _find(name: str | Path, field: str = "threat") -> Path:
    """The file of a threat model by name or path; `field` is what names it."""
    path = Path(name)
    if path.suffix == ".toml":
        return path
    known = presets()
    if str(name) not in known:
        raise unknown(field, str(name), [*known, "FILE.toml"])
    return known[str(name)]


def _read(path: Path, *, inside: Path | None = None, before: Path | None = None) -> Threat:
    """Read a file; `inside` is the suite that names it as a member, `before` the file that names it in `after`."""
    try:
        raw = tomllib.loads(_text(path))
    except FileNotFoundError:
        raise ValueError(f"{path}: threat file must exist, but it does not. Check the path.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path}: threat file must be readable TOML, got {summary(error)}. Correct the file."
        ) from None
    if "name" in raw:
        raise ValueError(f"{path}: `name` is the file's own name, got {raw['name']!r}. Drop the field.")
    if inside is not None and ("members" in raw or isinstance(raw.get("eps"), list)):
        raise ValueError(
            f"{inside}: `members` must be single threat models, got {path.stem!r}, which is several. Name its members."
        )
    if before is not None and ("after" in raw or "members" in raw or isinstance(raw.get("eps"), list)):
        raise ValueError(
            f"{before}: `after` must name another single threat model, got {path.stem!r}, which is several or has an "
            "`after` of its own. Name one."
        )
    try:
        if "members" in raw:
            return check_restarts(_suite(raw, path))
        raw = _composed(raw, path)
        if isinstance(raw.get("eps"), list):
            return check_restarts(_sweep(raw, path))
        return check_restarts(ThreatModel(name=path.stem, **raw))
    except Misfit as error:
        raise ValueError(f"{path}: {error}") from None


def _text(path: Path) -> str:
    """The text of a file that a reader of TOML gets through at once: its time grows as the square of a key's depth."""
    with path.open("rb") as file:
        data = file.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise tomllib.TOMLDecodeError(f"more than {LONGEST} bytes")
    if any(line.count(b".") > DOTS for line in data.splitlines()):
        raise tomllib.TOMLDecodeError(f"more than {DOTS} dots in a line")
    return data.decode("utf-8")


def _composed(fields: dict[str, Any], path: Path) -> dict[str, Any]:
    """The same fields with the threat model that `after` names, if it is there."""
    if "after" not in fields:
        return fields
    if not isinstance(fields["after"], str) or fields["after"] == path.stem:
        raise ValueError(f"{path}: `after` must name another single threat model, got {fields['after']!r}. Name one.")
    return fields | {"after": _read(_beside(fields["after"], path, "after"), before=path)}


def _beside(name: str, path: Path, field: str) -> Path:
    """The file of what another file names in a field: shipped, or a path from that other file."""
    try:
        return _find(path.parent / name if name.endswith(".toml") else name, field)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _sweep(raw: dict[str, Any], path: Path) -> Sweep:
    """One threat model at each of its radii."""
    radii = raw["eps"]
    if len(radii) < 2:
        raise ValueError(f"{path}: `eps` must be a radius or a list of at least 2, got {radii}. Drop the [].")
    members = tuple(ThreatModel(name=f"{path.stem}@{eps}", **{**raw, "eps": eps}) for eps in radii)
    return Sweep(name=path.stem, members=members, source=members[0].source)


def _suite(raw: dict[str, Any], path: Path) -> Suite:
    """A suite from names of threat models, or from tables that complete the fields at the top of the file."""
    own = {field: raw[field] for field in ("members", "queries", "source") if field in raw}
    shared = {field: value for field, value in raw.items() if field not in own}
    if isinstance(raw["members"], list) and raw["members"] and all(isinstance(m, dict) for m in raw["members"]):
        shared = _composed(shared, path)
        own["members"] = tuple(_member(table, shared, raw, path) for table in raw["members"])
        return Suite(name=path.stem, **own)
    fields: dict[str, Any] = own | shared | {"members": _members(raw["members"], path)}
    return Suite(name=path.stem, **fields)


def _member(table: dict[str, Any], shared: dict[str, Any], raw: dict[str, Any], path: Path) -> ThreatModel:
    if not isinstance(table.get("name"), str):
        raise ValueError(f"{path}: `members` must each have a `name`, got {table}. Add it.")
    try:
        fields: dict[str, Any] = {"source": raw.get("source")} | shared | _composed(table, path)
        return ThreatModel(**fields | {"name": f"{path.stem}/{table['name']}"})
    except Misfit as error:
        raise ValueError(f"{path}: member {table['name']!r}: {error}") from None


def _members(names: Any, path: Path) -> tuple[ThreatModel, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        rule = "must be a list of threat names or of tables"
        raise ValueError(f'{path}: `members` {rule}, got {names!r}. Write ["linf-8-255", ...] or [[members]].')
    if len(names) > MEMBERS:
        raise ValueError(f"{path}: `members` must be at most {MEMBERS}, got {len(names)}. Split the suite.")
    if any(name == path.stem or (path.parent / name).resolve() == path.resolve() for name in names):
        raise ValueError(f"{path}: `members` must not name the suite itself, got {path.stem!r}. Drop it.")
    read = (_read(_beside(name, path, "members"), inside=path) for name in names)
    return tuple(m for t in read for m in members_of(t))
