"""Going on after an interruption: nothing is computed twice, nothing comes out otherwise, and changes are refused."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_run import RUN, result

from oodattack.cli import main
from oodattack.data.disk import room_on_disk
from oodattack.job import Job
from oodattack.job.folder import tidy
from oodattack.job.planned import files_of
from oodattack.runs.journal import Journal
from oodattack.runs.manifest import write_manifest

RESUME = ["run", "--resume", "out"]


@pytest.fixture
def stops(monkeypatch):
    """stops(n): Ctrl-C when n blocks are in the journal; gives the list of blocks that are written from now on."""
    written: list[str] = []
    write = Journal.write

    def until(n: int | None) -> list[str]:
        written.clear()

        def counted(self, key, found):
            if len(written) == n:
                raise KeyboardInterrupt
            write(self, key, found)
            written.append(key)

        monkeypatch.setattr(Journal, "write", counted)
        return written

    return until


@pytest.mark.parametrize("blocks", [0, 1, 7])
def test_after_ctrl_c_only_the_rest_is_computed(place, finished, stops, capsys, blocks):
    stops(blocks)
    assert main(RUN) == 130
    err = capsys.readouterr().err
    assert "Go on with: oodattack run --resume out" in err and err.count("\n") <= 2
    assert len(list((place / "out" / "journal").glob("*.block"))) == blocks
    assert not (place / "out" / "report.json").exists()
    rest = stops(None)
    assert main(RESUME) == 0
    assert result(place / "out") == result(finished / "out")
    assert not (place / "out" / "journal").exists()
    assert len(rest) == len(set(rest)) == int((finished / "blocks").read_text()) - blocks
    again = stops(None)
    assert main([*RESUME, "--json"]) == 0  # finished: read, not computed
    assert again == []
    assert capsys.readouterr().out.endswith((place / "out" / "report.json").read_text())


def test_blocks_that_were_finished_are_not_computed_again(place, stops):
    stops(7)
    assert main(RUN) == 130
    first = {path.name for path in (place / "out" / "journal").glob("*.block")}
    rest = stops(3)
    assert main(RESUME) == 130
    both = {path.name for path in (place / "out" / "journal").glob("*.block")}
    assert len(rest) == 3 and first < both and len(both) == 10


def test_what_a_kill_left_half_done_is_no_evidence(place, finished, stops):
    stops(2)
    assert main(RUN) == 130
    left = ("plan.json.123.partial", "inputs/id/00000000.safetensors.9.partial", "room-for-images-x1y2")
    for name in left:
        path = place / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    (place / "out" / "notes.partial.txt").write_text("of the user")
    stops(None)
    assert main(RESUME) == 0
    assert not any((place / "out" / name).exists() for name in left)
    assert (place / "out" / "notes.partial.txt").exists()
    (place / "out" / "notes.partial.txt").unlink()
    (place / "out" / "manifest.json").unlink()
    write_manifest(place / "out")
    assert result(place / "out") == result(finished / "out")


def test_room_has_a_name_that_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr("oodattack.data.disk.SMALL", 0)
    monkeypatch.setattr(os, "unlink", lambda name: None)  # killed before
    room_on_disk(torch.zeros(3), tmp_path)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    tidy(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_journal_that_outlived_its_run_goes(place, finished):
    shutil.copytree(finished / "out", place / "out")
    (place / "out" / "journal").mkdir()
    (place / "out" / "journal" / "a.block").write_bytes(b"")
    assert main(RESUME) == 0
    assert not (place / "out" / "journal").exists()


DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "a bit": lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
    "seal": lambda data: b"0" * 64 + data[64:],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_block_is_computed_again(place, finished, stops, how):
    stops(5)
    assert main(RUN) == 130
    for path in (place / "out" / "journal").glob("*.block"):
        path.write_bytes(DAMAGE[how](path.read_bytes()))
    rest = stops(None)
    assert main(RESUME) == 0
    assert result(place / "out") == result(finished / "out")
    assert len(rest) == int((finished / "blocks").read_text())  # none was taken as it stood


def test_a_block_of_another_name_is_not_taken(place, finished, stops):
    stops(6)
    assert main(RUN) == 130
    files = sorted((place / "out" / "journal").glob("*.block"))
    data = [path.read_bytes() for path in files]
    for path, other in zip(files, data[1:] + data[:1], strict=True):
        path.write_bytes(other)
    stops(None)
    assert main(RESUME) == 0
    assert result(place / "out") == result(finished / "out")


def changed_images(place, name):
    with np.load(place / name) as arrays:
        kept = dict(arrays)
    kept["images"] = kept["images"].copy()
    kept["images"].reshape(-1)[0] = 0
    np.savez(place / name, **kept)


def edited(place, name, old, new):
    path = place / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def other_version(monkeypatch):
    from oodattack.identity import versions

    monkeypatch.setattr("oodattack.job.planned.versions", lambda: versions() | {"torch": "9.9"})


CHANGES = {
    "data": (lambda place, _: changed_images(place, "ood.npz"), "`data.ood/npz:ood.npz`"),
    "id data": (lambda place, _: changed_images(place, "id.npz"), "`data.id`"),
    "threat": (lambda place, _: edited(place, "quick.toml", "queries = 6", "queries = 7"), "`threats.quick`"),
    "member": (lambda place, _: edited(place, "quick-square.toml", "queries = 6", "queries = 5"), "`threats.worst`"),
    "code": (lambda place, _: edited(place, "mine.py", "mean(1)", "mean(1) * 2"), "`files.mine:"),
    "torch": (lambda _, monkeypatch: other_version(monkeypatch), "`versions.torch`"),
    "plan": (lambda place, _: edited(place, "out/plan.json", '"seed": 0', '"seed": 1'), "`sha256` differs"),
    "plan gone": (lambda place, _: (place / "out" / "plan.json").write_text("{"), "must be as it was written"),
    "no plan": (lambda place, _: (place / "out" / "plan.json").unlink(), "a run must have a plan"),
}


def test_a_run_that_was_stopped_before_it_had_finished_anything_is_given_again(place, capsys):
    (place / "out").mkdir()
    said = "out: a run must have a plan to go on with, got none: nothing was finished before it stopped. Give the run"
    assert main(RESUME) == 2
    assert capsys.readouterr().err == f"oodattack: {said} command again.\n"
    (place / "out" / "plan.json.7.partial").touch()
    assert main(RESUME) == 2
    assert capsys.readouterr().err == f"oodattack: {said} command again, with a new --out.\n"
    (place / "out" / "notes.txt").touch()  # no run has made that
    assert main(RESUME) == 2
    rule = "`--resume` must name the directory of a run, got one with notes.txt and without plan.json"
    assert capsys.readouterr().err == f"oodattack: out: {rule}. Check the path.\n"


@pytest.mark.parametrize("what", CHANGES)
def test_what_has_changed_is_named(place, stops, capsys, monkeypatch, what):
    stops(2)
    assert main(RUN) == 130
    capsys.readouterr()
    change, word = CHANGES[what]
    change(place, monkeypatch)
    assert main(RESUME) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and word in err
    assert len(list((place / "out" / "journal").glob("*.block"))) == 2  # kept, in case it is put back


def test_changed_weights_are_named(place, stops, capsys):
    from safetensors.torch import save_file
    from torch import nn

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 4))
    save_file(net.state_dict(), place / "w.safetensors")
    stops(2)
    assert main([*RUN, "--weights", "w.safetensors"]) == 130
    save_file({k: v * 2 for k, v in net.state_dict().items()}, place / "w.safetensors")
    capsys.readouterr()
    assert main(RESUME) == 2
    assert "`files.w.safetensors`" in capsys.readouterr().err


def test_an_unfinished_run_is_not_overwritten(place, stops, capsys):
    stops(1)
    main(RUN)
    capsys.readouterr()
    assert main(RUN) == 2
    assert "--resume" in capsys.readouterr().err


def test_resume_takes_no_other_option(place, capsys):
    assert main([*RESUME, "--seed", "3"]) == 2
    assert "`--resume` must stand alone, got --seed too" in capsys.readouterr().err


def test_a_full_disk_is_an_error_and_what_was_written_stays(place, finished, stops, monkeypatch, capsys):
    stops(3)
    assert main(RUN) == 130
    before = {path: path.read_bytes() for path in (place / "out" / "journal").glob("*.block")}
    stops(None)

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        capsys.readouterr()
        assert main(RESUME) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "No space left" in err
    assert {path: path.read_bytes() for path in before} == before
    assert not list((place / "out").rglob("*.part"))
    assert main(RESUME) == 0
    assert result(place / "out") == result(finished / "out")


def test_a_run_that_fails_says_how_to_go_on(place, finished, monkeypatch, capsys):
    write = Journal.write

    def full(self, key, found):
        if len(list(self.folder.glob("*.block"))) == 4:
            raise ValueError("no space left.")
        write(self, key, found)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", full)
        assert main(RUN) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "no space left. What was finished is kept: oodattack run --resume out." in err
    assert main(RESUME) == 0
    assert result(place / "out") == result(finished / "out")


def test_a_run_that_fails_before_its_first_block_leaves_nothing(place, capsys, monkeypatch):
    def wrong(*_args, **_options):
        raise ValueError("out of sorts")

    monkeypatch.setattr("oodattack.evaluation.sides.search", wrong)
    assert main(RUN) == 2
    assert not (place / "out").exists()


def test_the_plan_says_what_is_measured(finished):
    plan = json.loads((finished / "out" / "plan.json").read_text())
    assert plan["batch_size"] == 4 and plan["job"]["ood"] == ["npz:ood.npz"]
    assert set(plan["threats"]) == {"quick", "match", "shared", "worst"}
    assert set(plan["data"]) == {"id", "ood/npz:ood.npz"}
    assert set(plan["detectors"]) == {"energy@model", "mine:bright"}


def test_images_on_disk_change_nothing(place, finished, monkeypatch):
    monkeypatch.setattr("oodattack.data.disk.SMALL", 0)
    assert main(RUN) == 0
    assert result(place / "out") == result(finished / "out")


def test_another_batch_size_changes_rounding_alone(place, finished):
    for size in ("1", "7", "64"):
        at = RUN.index("shared.toml") - 1  # without the two suites
        words = [*RUN[:at], *RUN[at + 4 :], "--out", f"out-{size}"]
        words[words.index("--batch-size") + 1] = size
        assert main(words) == 0
    reports = [json.loads((place / f"out-{size}" / "report.json").read_text()) for size in (1, 7, 64)]
    for path in (finished / "out" / "clean").rglob("*.safetensors"):
        same = path.relative_to(finished / "out")
        scores = load_file(path)["scores"]
        for size in (1, 7, 64):
            torch.testing.assert_close(load_file(place / f"out-{size}" / same)["scores"], scores, atol=1e-5, rtol=1e-5)
    for cells in zip(*(report["results"] for report in reports), strict=True):
        for kind in ("clean", "attacked"):
            aurocs = [cell[kind]["auroc"] for cell in cells]
            assert max(aurocs) - min(aurocs) <= 0.002, (cells[0]["threat"], kind, aurocs)


@pytest.mark.parametrize("model", ["torchvision:resnet18", "timm:resnet18", "small"])
def test_networks_of_libraries_are_no_files_of_the_user(model):
    assert files_of(Job(model=model)) == {}
