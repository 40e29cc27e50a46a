"""`oodattack train` killed by the system at any moment: the same command goes on and ends with the same weights."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from oodattack.cli import main
from oodattack.train import read_record

CODE = """
import os, time
from torch import nn

class Slow(nn.Module):
    def forward(self, x):
        time.sleep(float(os.environ.get("SLOW", 0)))
        return x

def net(channels, classes):
    return nn.Sequential(Slow(), nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2),
                         nn.Linear(8, classes))
"""
COMMAND = (
    "train --objective poem --id npz:id.npz --aux npz:aux.npz --model mine:net --epochs 5 --batch-size 4 "
    "--checkpoint-every 0"
).split()
STEPS = 5 * 10  # 44 images, 4 of them held out, in steps of 4


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "id.npz", images=draw.random((44, 1, 8, 8), dtype=np.float32), labels=np.arange(44) % 2)
    np.savez(tmp_path / "aux.npz", images=draw.random((60, 1, 8, 8), dtype=np.float32))
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop("mine", None)


def steps_done() -> int:
    """As the checkpoint says; it is replaced as a whole, so that it can be read at any moment."""
    try:
        return int(json.loads(Path("killed.checkpoint/network/checkpoint.json").read_text())["steps"])
    except FileNotFoundError:
        return 0


def test_killed_at_random_moments(workplace, monkeypatch):
    monkeypatch.setenv("OODATTACK_CACHE", str(workplace / "cache-a"))
    assert main([*COMMAND, "--out", "straight.safetensors"]) == 0
    straight = read_record(Path("straight.safetensors"))
    assert straight["resumed"] == []
    environment = {**os.environ, "OODATTACK_CACHE": str(workplace / "cache-b"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "oodattack", *COMMAND, "--out", "killed.safetensors"]
    chance, at = random.Random(0), []
    for least in sorted(chance.sample(range(2, STEPS - 10), 2)):
        process = subprocess.Popen(command, env=environment | {"SLOW": "0.02"}, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while steps_done() < least and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))  # in the middle of a step, or of writing
        assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        at.append(steps_done())
        assert least <= at[-1] < STEPS
        assert not Path("killed.safetensors").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    killed = read_record(Path("killed.safetensors"))
    assert killed["resumed"] == at  # it did go on, each time from where it was
    assert Path("straight.safetensors").read_bytes() == Path("killed.safetensors").read_bytes()
    assert killed["curve"] == straight["curve"]
    assert not Path("killed.checkpoint").exists()
    assert done.stdout.splitlines()[0].split(":")[1:] == [
        f" poem, accuracy {straight['accuracy']:.4f} on held-out npz", "id.npz",
    ]  # fmt: skip
