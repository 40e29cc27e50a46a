"""Two processes on one machine: the same report and evidence as one, also when one of them dies on the way."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import RUN, fill, result

from oodattack.adapters.http_wire import ScorerError
from oodattack.runs.ranks import Failed, Ranks

PACKAGE = str(Path(__file__).parents[2])
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "oodattack"]


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PACKAGE}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*TORCHRUN, *words], cwd=folder, env=env, text=True, **pipes)


def test_two_processes_give_what_one_gives(tmp_path, finished):
    fill(tmp_path)
    process = start([*RUN, "--json"], tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out == (tmp_path / "out" / "report.json").read_text()  # one of them prints
    assert result(tmp_path / "out") == result(finished / "out")


def test_what_two_processes_left_one_goes_on_with(tmp_path, finished):
    fill(tmp_path)
    process = start(RUN, tmp_path)
    journal = tmp_path / "out" / "journal"
    deadline = time.monotonic() + 100
    while len(list(journal.glob("*.block"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    listed = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True).stdout
    process.kill()
    for worker in listed.split():
        os.kill(int(worker), signal.SIGKILL)
    process.communicate()
    again = [sys.executable, "-m", "oodattack", "run", "--resume", "out"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PACKAGE}
    done = subprocess.run(again, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "out") == result(finished / "out")


def test_an_error_in_one_process_is_an_error_in_all(monkeypatch):
    here = Ranks(rank=0, world=2)
    found = {"mine": None, "theirs": Failed(True, "`x` must be right")}
    monkeypatch.setattr(Ranks, "exchange", lambda _, item: [item, found["theirs"]])
    with pytest.raises(ValueError, match=r"`x` must be right \(in process 1\)"):
        here.shared(lambda: 1)
    found["theirs"] = Failed(False, "'x'")
    with pytest.raises(RuntimeError, match="in process 1"):
        here.shared(lambda: 1)
    found["theirs"] = 2
    assert here.shared(lambda: 1) == [1, 2]

    def fails():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        here.shared(fails)

    told = []
    monkeypatch.setattr(Ranks, "exchange", lambda _, item: told.append(item))
    for error in (ScorerError("no answer"), FloatingPointError("NaN"), KeyError("mine")):
        with pytest.raises(type(error)):
            here.shared(functools.partial(throw, error))
    assert [failed.wrong_use for failed in told] == [True, True, False]


def throw(error: Exception) -> None:
    raise error


def test_without_torchrun_there_is_one_process(monkeypatch):
    from oodattack.runs.ranks import join

    monkeypatch.delenv("RANK", raising=False)
    assert join() == Ranks(0, 1, 0)
    assert Ranks().speaks and Ranks().exchange("x") == ["x"] and Ranks().shared(lambda: 3) == [3]
