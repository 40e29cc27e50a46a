"""Rooms may import only from rooms below them, and nothing heavy before it is needed."""

import ast
import json
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import oodattack

PACKAGE = Path(oodattack.__file__).parent

# From the ground up; a room may import from those named here, all of which come before it.
BELOW = {
    "geometry": set(),
    "metrics": set(),
    "lookup": set(),
    "faults": {"lookup"},
    "detector": set(),
    "classifier": set(),
    "data": {"faults", "lookup"},
    "probe": {"data", "detector", "geometry", "metrics"},
    "between": {"detector", "geometry", "probe"},
    "keep_graph": {"data", "detector", "geometry", "metrics", "probe"},
    "full_precision": set(),
    "identity": set(),
    "whole_file": set(),
    "detectors": {"classifier", "detector", "identity", "keep_graph", "lookup", "metrics", "whole_file"},
    "objectives": set(),
    "models": {"faults", "lookup"},
    "threat": {"geometry", "lookup"},
    "loss": set(),
    "attack": {"faults", "geometry", "loss", "threat"},
    "attacks": {"attack", "faults", "geometry", "lookup", "loss", "threat"},
    "aims": {"detector", "loss"},
    "bounds": {"classifier", "detector", "detectors", "geometry", "lookup", "metrics"},
    "adapters": {"classifier", "detector", "detectors", "keep_graph", "lookup"},
    "diagnose": set(),
    "report": {"diagnose", "whole_file"},
    "numbers": {"metrics", "report", "threat"},
    "certificates": {"bounds", "data", "metrics", "numbers", "report", "threat"},
    "evaluation": {
        "adapters", "aims", "attack", "attacks", "between", "certificates", "classifier", "data", "detector",
        "detectors", "diagnose", "faults", "full_precision", "geometry", "identity", "keep_graph", "lookup", "loss",
        "metrics", "numbers", "probe", "report", "threat",
    },
    "train": {"classifier", "identity", "lookup", "models", "objectives", "whole_file"},
    "runs": {
        "attack", "certificates", "data", "detector", "detectors", "diagnose", "evaluation", "full_precision",
        "geometry", "identity", "lookup", "metrics", "numbers", "report", "threat", "whole_file",
    },
    "gallery": {"data", "detectors", "lookup", "report", "runs", "threat", "whole_file"},
    "job": {
        "adapters", "classifier", "data", "detector", "detectors", "evaluation", "faults", "full_precision", "gallery",
        "identity", "lookup", "models", "report", "runs", "threat", "train", "whole_file",
    },
    "gate": {"data", "detector", "diagnose", "evaluation", "lookup", "report", "runs", "threat", "whole_file"},
    "pytest_plugin": {"gate", "report"},
    "cli": {"attacks", "data", "detectors", "evaluation", "faults", "gate", "job", "models", "objectives", "threat"},
    "__main__": {"cli"},
}  # fmt: skip
HEAVY = ("sklearn", "torchvision", "PIL", "torchattacks", "matplotlib", "pytorch_ood")


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names of what a file of `package` imports, at the top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            home = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{home}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def room_of(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def violations(root: Path) -> list[str]:
    """Imports below `root`, a package called oodattack, that the table does not allow."""
    found = []
    for path in sorted(root.rglob("*.py")):
        room = room_of(path, root)
        if room == "__init__":
            continue
        package = ".".join(["oodattack", *path.relative_to(root).parts[:-1]])
        for name in imported(ast.parse(path.read_text(encoding="utf-8")), package):
            first, *rest = name.split(".")
            if first == "oodattack" and (not rest or rest[0] not in {room, *BELOW[room], "__version__"}):
                found.append(f"{path.relative_to(root)}: `{room}` may not import `{name}`")
    return found


def test_the_table_is_in_order():
    rooms = list(BELOW)
    for i, (room, below) in enumerate(BELOW.items()):
        assert below <= set(rooms[:i]), f"{room} reaches up"


def test_the_table_lists_every_room():
    assert {room_of(path, PACKAGE) for path in PACKAGE.rglob("*.py")} == {"__init__", *BELOW}


def test_imports_point_downwards():
    assert violations(PACKAGE) == []


UPWARD = {
    "from a module": "from oodattack.evaluation import evaluate",
    "from the package": "from oodattack import evaluation",
    "plain": "import oodattack.evaluation.run",
    "plain package": "import oodattack",
    "relative": "from ..evaluation import evaluate",
    "relative package": "from .. import evaluation",
    "in a function": "def f():\n    from oodattack.evaluation import evaluate",
    "for types": "if TYPE_CHECKING:\n    from oodattack.evaluation import evaluate",
    "by name": "import_module('oodattack.evaluation')",
}


@pytest.mark.parametrize("code", UPWARD.values(), ids=UPWARD)
def test_an_upward_import_is_caught(tmp_path, code):
    (tmp_path / "geometry").mkdir()
    (tmp_path / "geometry" / "balls.py").write_text(code)
    (tmp_path / "aims.py").write_text("from oodattack import loss\nimport oodattack.detector\nimport torch")
    found = violations(tmp_path)
    assert len(found) == 1
    assert "geometry/balls.py: `geometry` may not import `oodattack" in found[0]


def python(code: str) -> dict:
    """What `code` leaves in `out`, run in a fresh interpreter."""
    script = f"import json, sys\nout = {{}}\n{textwrap.dedent(code)}\nprint('\\n' + json.dumps(out))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_every_module_pulls_in_nothing_heavy():
    modules = [
        ".".join(["oodattack", *path.relative_to(PACKAGE).with_suffix("").parts]) for path in PACKAGE.rglob("*.py")
    ]
    names = sorted(name.removesuffix(".__init__") for name in modules)
    assert len(names) > 50
    out = python(f"""
        from importlib import import_module
        for name in {names}:
            import_module(name)
        out = [name for name in {HEAVY} if name in sys.modules]
    """)
    assert out == []


def test_import_costs_next_to_nothing_on_top_of_torch():
    code = """
        import time, torch
        start = time.perf_counter()
        import oodattack
        out = time.perf_counter() - start
    """
    assert min(python(code) for _ in range(3)) < 0.1


def test_public_names_resolve():
    assert set(oodattack.__all__) == set(oodattack._HOMES) | set(oodattack._ROOMS)
    assert all(getattr(oodattack, name) is not None for name in oodattack.__all__)
    assert {*dir(oodattack)} == {*oodattack.__all__, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        oodattack.nonsense  # noqa: B018


def test_help_needs_no_torch_and_is_quick():
    code = """
        import time
        start = time.perf_counter()
        from oodattack.cli import main
        out["code"] = main(["--help"])
        out["seconds"] = time.perf_counter() - start
        out["torch"] = "torch" in sys.modules
    """
    runs = [python(code) for _ in range(5)]
    assert not any(run["torch"] for run in runs)
    assert {run["code"] for run in runs} == {0}
    assert min(run["seconds"] for run in runs) < 0.5


def test_version_is_that_of_the_project():
    project = Path(__file__).parent.parent / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == oodattack.__version__
