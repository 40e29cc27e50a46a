"""README and guides are true: their code runs, their commands run, the tables name what there is."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from oodattack.attacks import ATTACKS, outside
from oodattack.cli import cli, main
from oodattack.data import DATASETS
from oodattack.detectors import DETECTORS
from oodattack.objectives import OBJECTIVES
from oodattack.threat import ThreatModel, presets, read_threat
from oodattack.train import PAPERS, RECIPES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
README, *GUIDES = (page.read_text(encoding="utf-8") for page in PAGES)
NEW_ATTACK = next(page for page in GUIDES if page.startswith("# Add an attack"))


def blocks(language: str, *pages: str) -> list[str]:
    """Blocks of code of these pages, or of README and guides, without those that a page has from another."""
    code = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return list(dict.fromkeys(block for page in pages or (README, *GUIDES) for block in code.findall(page)))


def commands(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.startswith("oodattack")]


BLOCKS = [block for block in blocks("sh") if commands(block)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What a user who follows the README has in the current directory."""
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "id.npz", images=generator.integers(0, 255, (12, 8, 8, 3), dtype=np.uint8))
    np.savez(tmp_path / "ood.npz", images=generator.random((10, 3, 8, 8), dtype=np.float32))
    (attack,), (limits,) = blocks("python", NEW_ATTACK), blocks("toml", NEW_ATTACK)
    (tmp_path / "mine.py").write_text(f"{attack}\n\ndef score(x):\n    return x.flatten(1).mean(1)\n")
    (tmp_path / "momentum.toml").write_text(limits)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("mine", None)
    yield tmp_path
    sys.modules.pop("mine", None)  # other tests have user code of that name


def test_the_two_set_up_commands_are_there_for_ci():
    first_lines = [block.splitlines()[0] for block in blocks("sh", README)]
    assert "pip install . && oodattack run" in first_lines
    assert 'pip install ".[test]" && pytest' in first_lines
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script and "pip install ." not in script.replace(r"pip install \. && ", "")


SCRIPTS = [code for code in blocks("python") if code not in blocks("python", NEW_ATTACK)]  # that is a module


@pytest.mark.parametrize("code", SCRIPTS, ids=lambda code: code.splitlines()[-1][:30])
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


LONG = [
    line
    for block in blocks("console")
    for line in block.replace("\\\n", "").splitlines()
    if line.startswith("oodattack")
]


@pytest.mark.parametrize("command", LONG, ids=lambda command: command[10:40])
def test_what_takes_too_long_to_run_here_has_the_options_and_names_that_there_are(command):
    _, name, *words = shlex.split(command)
    options = cli.commands[name].make_context(name, words).params
    assert set(options.get("detectors", ())) <= {f"{d}@{n}" for d in DETECTORS for n in RECIPES}
    assert {options["recipe"]} <= {*PAPERS} if name == "train" else not options.get("recipe")
    assert {options["id_"], *options.get("ood", ()), *([options["aux"]] if name == "train" else [])} <= {*DATASETS}


def test_there_are_such_commands():
    assert len(LONG) == 3


def scripts(node) -> list[str]:
    """Every line that a workflow runs, wherever it stands."""
    if isinstance(node, dict):
        return [line for key, value in node.items() for line in ([value] if key == "run" else scripts(value))]
    return [line for value in node for line in scripts(value)] if isinstance(node, list) else [str(node)]


def outputs(node) -> list[str]:
    """Every file that a workflow keeps."""
    if isinstance(node, dict):
        kept = [node["path"]] if "path" in node else [*node.get("paths", []), *node.get("reports", {}).values()]
        return kept + [path for value in node.values() for path in outputs(value)]
    return [path for value in node for path in outputs(value)] if isinstance(node, list) else []


@pytest.mark.parametrize("block", blocks("yaml"), ids=["github", "gitlab"])
def test_workflows_run(block, folder, capsys):
    workflow = yaml.safe_load(block)
    run, check = (line for line in scripts(workflow) if line.startswith("oodattack"))
    assert any(line.startswith("pip install ./oodattack") for line in scripts(workflow))
    assert main(shlex.split(run)[1:]) == 0, capsys.readouterr().err
    assert main(["check", "my-gate", "--baseline", "baseline.json", "--update"]) == 0  # what is committed
    capsys.readouterr()
    assert main(shlex.split(check)[1:]) == 0
    assert capsys.readouterr().out.strip()
    assert outputs(workflow) and all((folder / path).is_file() for path in [*outputs(workflow), "check.xml"])


def test_workflows_are_what_their_hosts_read():
    github, gitlab = (yaml.safe_load(block) for block in blocks("yaml"))
    assert set(github) == {"name", True, "jobs"}  # YAML 1.1 reads `on` as true
    assert all({"uses", "run"} & set(step) for step in github["jobs"]["robustness"]["steps"])
    assert set(gitlab["robustness"]) == {"image", "script", "artifacts"}
    assert all(isinstance(line, str) for line in gitlab["robustness"]["script"])  # a colon would make a mapping


SHELL_LINES = [line for block in blocks("bash") for line in block.splitlines() if "oodattack completion" in line]


@pytest.mark.parametrize("line", SHELL_LINES, ids=lambda line: re.search(r"completion (\w+)", line)[1])
def test_shell_completion_installs(line, tmp_path):
    shell = re.search(r"completion (\w+)", line)[1]
    command = Path(sys.executable).with_name("oodattack")
    if shutil.which(shell) is None or not command.exists():
        pytest.skip(f"needs {shell} and the oodattack command")
    before, after = {
        "bash": ("", "complete -p oodattack"),
        "zsh": ("autoload -Uz compinit; compinit -u -D", "print $_comps[oodattack]"),
        "fish": ("", "source ~/.config/fish/completions/oodattack.fish; complete -C 'oodattack ver'"),
    }[shell]
    (tmp_path / ".config" / "fish" / "completions").mkdir(parents=True)
    done = subprocess.run(
        [shell, "-c", "\n".join([before, line, after])],
        env=os.environ | {"HOME": str(tmp_path), "PATH": f"{command.parent}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert ("verify" if shell == "fish" else "_oodattack_completion") in done.stdout


def test_shell_completion_is_shown_for_each_shell():
    assert len(SHELL_LINES) == 3


def test_the_threat_file_is_valid_and_complete(tmp_path):
    (block,) = blocks("toml", README)
    (tmp_path / "my-limits.toml").write_text(block)
    assert isinstance(read_threat(tmp_path / "my-limits.toml"), ThreatModel)


def test_every_guide_is_in_the_readme():
    assert set(re.findall(r"\(docs/guides/([^)]*)\) \|", README)) == {page.name for page in PAGES[1:]}


def test_tables_name_everything_built_in():
    for name in [*ATTACKS, *DETECTORS, *OBJECTIVES]:
        assert f"`{name}`" in README, name
    mentioned = set(re.findall(r"\*\*([a-z0-9-]+)\*\*:", README)) - {"clean", "verdict"}
    assert mentioned <= set(presets())


def test_how_many_attacks_of_torchattacks_there_are():
    assert f"| {len(outside())} of that library's |" in README
