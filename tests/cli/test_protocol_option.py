"""`--protocol`: what is done to the images that a command loads."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from quick_threat import QUICK

from oodattack.cli import main
from oodattack.data import load
from oodattack.detectors import DETECTORS
from oodattack.job import Job
from oodattack.job.images import fit_images, load_images
from oodattack.job.networks import user_network
from oodattack.job.training_data import training_data
from oodattack.threat import read_threat

CODE = """
from torch import nn
def net(channels, classes): return nn.Sequential(nn.Flatten(), nn.Linear(1024 * channels, classes))
def fine(x): return x.flatten(1).mean(1)
"""
SIZES = [(40, 30), (36, 50), (64, 64), (33, 47)]  # width and height


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Folders of pictures of several sizes: two classes, and some more."""
    draw = np.random.default_rng(0)
    for name, n in (("id/a", 12), ("id/b", 12), ("ood", 4)):
        (tmp_path / name).mkdir(parents=True)
        for i in range(n):
            pixels = draw.integers(0, 256, (*SIZES[i % 4][::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "quick.toml").write_text(QUICK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setenv("OODATTACK_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    sys.modules.pop("mine", None)


RUN = "run --detector mine:fine --threat quick.toml --id folder:id --ood folder:ood --ood noise --samples 4 --out out"
TRAIN = "train --id folder:id --model mine:net --epochs 1 --out net.safetensors --objective"


def test_pictures_of_several_sizes_can_be_run(workplace, capsys):
    assert main(RUN.split()) == 2
    assert "must hold pictures of one size" in (err := capsys.readouterr().err) and "Name a --protocol that" in err
    assert main([*RUN.split(), "--protocol", "resize-32x32", "--json"]) == 0, capsys.readouterr().err
    spec = json.loads(capsys.readouterr().out)["spec"]
    assert [spec["id"]["source"], *(ood["source"] for ood in spec["ood"])] == [
        "folder:id; resize 32 x 32", "folder:ood; resize 32 x 32", "generated",
    ]  # fmt: skip
    assert json.loads(Path("out/plan.json").read_text())["job"]["protocol"] == "resize-32x32"
    assert main(["verify", "out"]) == 0


def test_a_run_goes_on_with_its_protocol(workplace, capsys, monkeypatch):
    import oodattack.job.running as running

    real = running.measured

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "measured", interrupted)
    assert main([*RUN.split(), "--protocol", "resize-32x32"]) == 130
    monkeypatch.setattr(running, "measured", real)
    assert main(["run", "--resume", "out"]) == 0, capsys.readouterr().err


def test_pictures_of_several_sizes_can_be_trained_on(workplace, capsys):
    words = "oe --aux folder:ood --protocol resize-32x32"
    assert main([*TRAIN.split(), *words.split()]) == 0, capsys.readouterr().err
    record = json.loads(Path("net.json").read_text())
    assert record["protocol"] == "resize-32x32"
    whole = load("folder:id", seed=0, protocol="resize-32x32")
    for protocol, accuracy in (("resize-32x32", record["accuracy"]), ("resize-32", None)):
        job = Job(id="folder:id", protocol=protocol, model="mine:net", weights=(Path("net.safetensors"),))
        assert user_network(job, job.weights[0], whole, torch.device("cpu")).accuracy == accuracy


@pytest.mark.parametrize("command", [RUN, f"{TRAIN} ce"])
def test_an_unknown_protocol(workplace, capsys, command):
    before = sorted(workplace.rglob("*"))
    assert main([*command.split(), "--protocol", "resize32"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "protocol` must be one of keep" in err
    assert "Did you mean 'resize-32'? `" in err and "got 'resize32'." in err
    assert sorted(workplace.rglob("*")) == before


def test_all_of_a_job_goes_through_it_but_what_is_drawn(monkeypatch):
    monkeypatch.setattr("oodattack.job.training_data.AUXILIARY", 10)
    named = {"fit": "digits", "id_validation": "digits", "ood_validation": "digits-6-9"}
    job = Job(protocol="pad-2-grey-to-rgb", ood=("digits-6-9", "noise"), samples=5, **named)
    loaded, fit = load_images(job, [read_threat("linf-8-255")]), fit_images(job, [DETECTORS["mahalanobis-weighted"]])
    digits = [loaded.id.x, loaded.targets.x, loaded.ood[0].x, fit.x, fit.id_val, fit.ood_val]
    for x in [*digits, loaded.ood[1].x]:
        assert x.shape[1:] == (3, 36, 36)
    for x in digits:
        assert x[:, :, :2].sum() == 0 and x[:, :, 2:-2].sum() > 0 and torch.equal(x[:, 0], x[:, 2])
    assert loaded.ood[1].x[:, :, :2].amin() > 0
    fed = training_data("digits", None, needs_aux=True, root=None, samples=None, seed=0, protocol=job.protocol)
    assert fed.training.x.shape[1:] == fed.training.aux.shape[1:] == fed.held_out.x.shape[1:] == (3, 36, 36)
