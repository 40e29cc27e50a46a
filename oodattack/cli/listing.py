"""`oodattack list`."""

from pathlib import Path
from typing import Any

import click

KINDS = ["detectors", "threats", "attacks", "datasets", "objectives", "recipes", "models", "protocols"]
EXAMPLE = "Example: oodattack list threats --json"


@click.command("list", epilog=EXAMPLE)
@click.argument("what", type=click.Choice(KINDS))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")
def list_(what: str, as_json: bool) -> None:
    """List what there is to choose from, with its source."""
    rows = rows_of(what)
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    caption = None
    if what == "threats":
        caption = f"files to start one of your own from: {Path(rows[0]['file']).parent}"
        said = "{direction}, {limits}: {attack}, {queries} queries"
        rows = [{"name": row["name"], "threat": said.format(**row), "source": row["source"]} for row in rows]
    table = Table(title=what, title_justify="left", caption=caption, caption_justify="left")
    for column in rows[0]:
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


def rows_of(what: str) -> list[dict[str, str]]:
    """name, source and description of everything of a kind; what threats are, in place of the latter."""
    if what == "threats":
        from oodattack.threat import direction, in_short, preset_folder, presets, read_threat

        read = [read_threat(name) for name in presets()]
        folder = preset_folder()
        return [
            {
                "name": t.name,
                "direction": direction(t),
                **in_short(t),
                "source": t.source,
                "file": f"{folder / t.name}.toml",
            }
            for t in read
        ]
    if what == "recipes":
        from oodattack.job.recipe import recipes

        return recipes()
    if what == "protocols":
        from oodattack.data.protocols import PROTOCOLS, in_words

        return [{"name": name, "description": in_words(p), "source": p.source} for name, p in PROTOCOLS.items()]
    from oodattack import attacks, data, detectors, models, objectives

    tables: dict[str, Any] = {
        "detectors": detectors.DETECTORS,
        "attacks": attacks.ATTACKS,
        "datasets": data.DATASETS,
        "objectives": objectives.OBJECTIVES,
        "models": models.MODELS,
    }
    rows = [{"name": row.name, "description": row.description, "source": row.source} for row in tables[what].values()]
    return rows + attacks.outside() if what == "attacks" else rows
