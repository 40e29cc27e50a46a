"""names.json of the command line: what shell completion offers without importing torch."""

import json

from oodattack.cli.listing import rows_of
from oodattack.detectors import DETECTORS
from oodattack.objectives import SAMPLERS
from oodattack.threat import presets, read_threat
from oodattack.train import RECIPES


def names_json() -> str:
    """Kind -> name -> what it is."""
    kinds = {
        kind: {row["name"]: row["description"] for row in rows_of(kind) if ":" not in row["name"]}
        for kind in ("detectors", "datasets", "objectives", "recipes", "models", "protocols")
    }
    kinds["threats"] = {name: read_threat(name).source for name in presets()}
    kinds["samplers"] = {row.name: row.description for row in SAMPLERS.values()}
    kinds["networks"] = {name: kinds["objectives"][name] for name in RECIPES}
    kinds["bare"] = {name: "" for name, row in DETECTORS.items() if row.bare}
    kinds["several"] = {name: "" for name, row in DETECTORS.items() if row.several}
    return json.dumps(kinds, indent=1, ensure_ascii=False) + "\n"
