"""Page: threat models."""

import tomllib
from typing import Any

from docs.pages.docstrings import parsed
from docs.pages.markdown import code, link, page, prose, table
from oodattack.threat import Suite, Sweep, Threat, ThreatModel, direction, preset_folder, presets, read_threat
from oodattack.threat.wanted import in_255ths

INTRODUCTION = """# Threat models

What an attacker may do is a TOML file, and no field that decides the science has a default. `oodattack run --threat
NAME` takes one of those below, `--threat FILE.toml` yours, `--threat NAME@EPS`, such as `ood-aa@2/255`, either of them
at another radius. Start from the one nearest to what you mean:"""
SUITES = """## Suites

`members` with names makes a suite: every image at its worst over them. `[[members]]` tables complete the fields above
them; with `queries` at the top they share that budget."""
SWEEPS = """## Sweeps

A list as `eps` makes a sweep: AUROC against the radius, and `eps50`, the radius that leaves 0.5. So does `--threat
NAME@EPS,EPS,...`, of a single threat model, which is called `NAME-swept` then."""
SHIPPED = "## Those that ship"
ABSENT = """## Not replayed

Published evaluations of images that have no file here: the ball of CCU, whose radius its authors compute for each
image; ProoD's monotone PGD; perceptual (LPIPS) balls; the classifier attacks DeepFool and CW of Lorenz et al. 2024, of
whose question `adex-id` asks the part with PGD. The null-space construction of Liang et al. 2020 moves an image without
any limit and is a function, `oodattack.attacks.null_space.null_space`. Their real start images are given by
`start = "picture:PATH"` in a copy of `liang-latent-224-20`."""


def text() -> str:
    """The page."""
    example = (preset_folder() / "linf-8-255.toml").read_text(encoding="utf-8")
    read = {name: read_threat(name) for name in presets()}
    return page(
        INTRODUCTION,
        code(example, "toml"),
        "## Fields",
        attributes(ThreatModel),
        SUITES,
        attributes(Suite),
        SWEEPS,
        SHIPPED,
        table(
            ["name", "direction", "within", "attack", "queries", "source"],
            [row(name, threat) for name, threat in read.items()],
        ),
        ABSENT,
    )


def attributes(kind: type) -> str:
    """The fields of a kind of threat model."""
    said = parsed(kind.__doc__).sections["Attributes"]
    return table(["field", ""], [(f"`{name}`", prose(words)) for name, words in said])


def radius(limits: ThreatModel) -> str:
    """The radius of a ball, as a file would have it."""
    return in_255ths(limits.eps) if limits.norm == "linf" else f"{limits.eps:g}"


def row(name: str, threat: Threat) -> tuple[str, ...]:
    """A shipped threat model in a line."""
    raw: dict[str, Any] = tomllib.loads(presets()[name].read_text(encoding="utf-8"))
    first = threat if isinstance(threat, ThreatModel) else threat.members[0]
    eps = (
        f"{radius(first)} to {radius(threat.members[-1])}"
        if isinstance(threat, Sweep)
        else raw.get("eps", radius(first))
    )
    attack = f"`{first.attack}`"
    queries: int | str = first.queries
    if isinstance(threat, Suite):
        attack = ", ".join(f"`{member.name.removeprefix(f'{name}/')}`" for member in threat.members)
        queries = threat.queries or sum(member.queries for member in threat.members)
    place = link(f"`{name}`", f"../threat_models/{name}.toml")
    return place, direction(threat), f"{first.norm} {eps}", attack, str(queries), prose(threat.source)
