"""The README is true: its code runs, its commands run, its tables name what there is."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from oodattack.attacks import ATTACKS
from oodattack.cli import main
from oodattack.detectors import DETECTORS
from oodattack.objectives import OBJECTIVES
from oodattack.threat import ThreatModel, presets, read_threat

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.S | re.M)


def commands(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.startswith("oodattack")]


BLOCKS = [block for block in blocks("sh") if commands(block)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What a user who follows the README has in the current directory."""
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "id.npz", images=generator.integers(0, 255, (12, 8, 8, 3), dtype=np.uint8))
    np.savez(tmp_path / "ood.npz", images=generator.random((10, 3, 8, 8), dtype=np.float32))
    (tmp_path / "mine.py").write_text("def score(x):\n    return x.flatten(1).mean(1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("mine", None)
    yield tmp_path
    sys.modules.pop("mine", None)  # other tests have user code of that name


def test_the_two_set_up_commands_are_there_for_ci():
    first_lines = [block.splitlines()[0] for block in blocks("sh")]
    assert "pip install . && oodattack run" in first_lines
    assert 'pip install ".[test]" && pytest' in first_lines
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script and "pip install ." not in script.replace(r"pip install \. && ", "")


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[-1][:30])
def test_python_blocks_run(code, folder, capsys):
    torch.manual_seed(0)
    exec(compile(code, "README.md", "exec"), {})
    assert "energy" in capsys.readouterr().out
    assert (folder / "report.json").exists()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: commands(block)[0][:40])
def test_commands_run(block, folder, capsys):
    # one after the other, as a reader would: some go on from what those before them left
    for command in commands(block):
        assert main(shlex.split(command)[1:]) == 0, command
        out = capsys.readouterr().out
        assert out.strip()
        if "--out my" in command:
            run = folder / command.rsplit(" ", 1)[1]
            assert (run / "report.json").exists() and list(run.glob("sheets/*/*/*.png"))


def test_the_threat_file_is_valid_and_complete(tmp_path):
    (block,) = blocks("toml")
    (tmp_path / "my-limits.toml").write_text(block)
    assert isinstance(read_threat(tmp_path / "my-limits.toml"), ThreatModel)


def test_tables_name_everything_built_in():
    for name in [*ATTACKS, *DETECTORS, *OBJECTIVES]:
        assert f"`{name}`" in README, name
    mentioned = set(re.findall(r"\*\*([a-z0-9-]+)\*\*:", README)) - {"clean", "verdict"}
    assert mentioned <= set(presets())
