"""`oodattack run` on networks of `oodattack train`: the same logits, normalised alike, without the outlier class."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from quick_threat import QUICK
from safetensors.torch import load_file

from oodattack import data, models
from oodattack.classifier import Classifier
from oodattack.cli import main
from oodattack.detectors import MSP
from oodattack.job import Job
from oodattack.job.id_classes import id_classes
from oodattack.job.images import at_most
from oodattack.job.networks import network_of, user_network
from oodattack.models.exits import ExitNet
from oodattack.train import read_record, write_network
from oodattack.train.files import sha256, tensor_bytes

CPU = torch.device("cpu")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Thirty labelled images of 32 x 32, ten outliers to train with and ten to detect."""
    draw = np.random.default_rng(0)
    y = np.arange(30) % 3
    x = draw.random((30, 1, 32, 32)) / 2
    for row, label in enumerate(y):
        x[row, 0, 8 * label : 8 * label + 8] += 0.4
    np.savez(tmp_path / "id.npz", images=x.astype(np.float32), labels=y)
    np.savez(tmp_path / "aux.npz", images=draw.random((20, 1, 32, 32), dtype=np.float32))
    np.savez(tmp_path / "ood.npz", images=draw.random((10, 1, 32, 32), dtype=np.float32))
    (tmp_path / "quick.toml").write_text(QUICK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OODATTACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    return tmp_path


def train(*words: str) -> None:
    base = "train --id npz:id.npz --epochs 3 --batch-size 10 --out net.safetensors"
    assert main([*base.split(), *words]) == 0


def run(*words: str) -> int:
    base = "run --id npz:id.npz --ood npz:ood.npz --threat quick.toml --model small --weights net.safetensors"
    return main([*base.split(), *words])


def report(capsys, *words: str) -> dict:
    capsys.readouterr()
    code = run(*words, "--json")
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def small(outputs: int) -> torch.nn.Module:
    network = models.build("small", channels=1, classes=outputs)
    network.load_state_dict(load_file("net.safetensors"))
    return network.eval()


def auroc(scores_id, scores_ood) -> float:
    above = scores_ood[:, None] > scores_id[None]
    return (above.double() + (scores_ood[:, None] == scores_id[None]).double() / 2).mean().item()


def images() -> tuple[torch.Tensor, torch.Tensor]:
    return data.load("npz:id.npz", seed=0).x, data.load("npz:ood.npz", seed=0).x


def test_a_plain_network_scores_as_by_hand(workplace, capsys):
    train("--objective", "ce")
    (result,) = report(capsys, "--detector", "msp")["results"]
    with torch.no_grad():
        found = [1 - small(3)(x).softmax(1).amax(1) for x in images()]
    assert result["clean"]["auroc"] == pytest.approx(auroc(*found), abs=1e-6)


def test_the_normalisation_of_the_training_is_taken(workplace, capsys):
    train("--objective", "ce", "--mean", "0.3", "--std", "0.2")
    (bare,) = report(capsys, "--detector", "energy", "--out", "a")["results"]
    (told,) = report(capsys, "--detector", "energy", "--mean", "0.3", "--std", "0.2", "--out", "b")["results"]
    with torch.no_grad():
        right = [-small(3)((x - 0.3) / 0.2).logsumexp(1) for x in images()]
        wrong = [-small(3)(x).logsumexp(1) for x in images()]
    assert auroc(*right) != pytest.approx(auroc(*wrong), abs=1e-6)
    for result in (bare, told):
        assert result["clean"]["auroc"] == pytest.approx(auroc(*right), abs=1e-6)


def test_another_normalisation_is_refused(workplace, capsys):
    train("--objective", "ce", "--mean", "0.3", "--std", "0.2")
    capsys.readouterr()
    assert run("--mean", "0.5", "--std", "0.2") == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert "`--mean` and `--std` must be (0.3,) and (0.2,), which net.safetensors was trained with" in err
    assert "got (0.5,) and (0.2,). Drop them." in err


def tune(*words: str) -> int:
    base = "train --objective ce --id npz:id.npz --epochs 1 --lr 1e-9 --model small --weights net.safetensors"
    return main([*base.split(), "--out", "tuned.safetensors", *words])


def test_fine_tuning_keeps_the_normalisation_of_the_training(workplace, capsys):
    train("--objective", "ce", "--mean", "0.3", "--std", "0.2")
    first = read_record(Path("net.safetensors"))
    for words in ((), ("--mean", "0.3", "--std", "0.2")):
        assert tune(*words) == 0, capsys.readouterr().err
        tuned = read_record(Path("tuned.safetensors"))
        assert (tuned["mean"], tuned["std"]) == ([0.3], [0.2])
        assert tuned["accuracy"] == first["accuracy"]
    capsys.readouterr()
    assert tune("--mean", "0.5", "--std", "0.2") == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert "must be (0.3,) and (0.2,), which net.safetensors was trained with, got (0.5,) and (0.2,). Drop them" in err


def test_what_lies_beside_weights_is_read_before_the_training(workplace, capsys):
    train("--objective", "ce")
    for name, word in (("net.digests", "must hold digests"), ("net.json", "must be JSON")):
        Path(name).write_bytes(b"[")
        capsys.readouterr()
        before = sorted(workplace.rglob("*"))
        assert tune() == 2
        assert word in capsys.readouterr().err
        assert sorted(workplace.rglob("*")) == before  # no network in the cache


def test_new_weights_beside_an_old_record_are_refused(workplace, capsys):
    """As a kill between the two files leaves them."""
    train("--objective", "ce", "--mean", "0.3", "--std", "0.2")
    old = Path("net.json").read_text()
    train("--objective", "ce", "--mean", "0.3", "--std", "0.2", "--seed", "1")
    Path("net.json").write_text(old)
    for text, word in ((old, "got that of other weights"), ("[" * 200_000, "must be JSON")):
        Path("net.json").write_text(text)
        capsys.readouterr()
        assert run("--detector", "energy") == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and "net.json" in err and word in err


def test_images_that_a_network_was_trained_on_are_told(workplace, capsys):
    with np.load("id.npz") as whole, np.load("aux.npz") as aux:
        np.savez("judged.npz", images=np.concatenate([whole["images"][:7], aux["images"][:2]]))
    train("--objective", "oe", "--aux", "npz:aux.npz")
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    held_out = {*order[:3].tolist()} & {*range(7)}
    words = ("--detector", "energy", "--id", "npz:judged.npz")
    found = report(capsys, *words, "--out", "a")["spec"]["overlaps"]
    assert found == [
        {"first": "id", "second": "the auxiliary images of model", "images": 2},
        {"first": "id", "second": "the training images of model", "images": 7 - len(held_out)},
    ]
    Path("net.digests").rename("net.gone")
    assert report(capsys, *words, "--out", "b")["spec"]["overlaps"] == []
    for content in (b"", Path("net.gone").read_bytes()[:-1] + b"x"):
        Path("net.digests").write_bytes(content)
        capsys.readouterr()
        assert run(*words, "--out", "c") == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and "net.digests: must h" in err


def test_what_the_weights_before_were_trained_on_counts(workplace, capsys):
    train("--objective", "ce")
    np.savez("other.npz", images=np.load("id.npz")["images"][::-1].copy() / 2, labels=np.load("id.npz")["labels"])
    again = "train --objective ce --id npz:other.npz --epochs 1 --weights net.safetensors"
    assert main([*again.split(), "--model", "small", "--out", "net.safetensors"]) == 0
    (found,) = report(capsys, "--detector", "energy")["spec"]["overlaps"]
    assert found == {"first": "id", "second": "the training images of model", "images": 27}


def test_outliers_that_the_weights_before_were_trained_on_count(workplace, capsys):
    train("--objective", "oe", "--aux", "npz:aux.npz")
    assert tune() == 0
    words = ("--ood", "npz:aux.npz", "--weights", "tuned.safetensors", "--detector", "energy@model2")
    found = report(capsys, *words)["spec"]["overlaps"]
    assert {"first": "npz:aux.npz", "second": "the auxiliary images of model2", "images": 20} in found


def test_weights_without_their_record_take_what_is_said(workplace, capsys):
    train("--objective", "ce", "--mean", "0.3", "--std", "0.2")
    Path("net.json").unlink()
    (result,) = report(capsys, "--detector", "energy", "--mean", "0.5", "--std", "0.1")["results"]
    with torch.no_grad():
        found = [-small(3)((x - 0.5) / 0.1).logsumexp(1) for x in images()]
    assert result["clean"]["auroc"] == pytest.approx(auroc(*found), abs=1e-6)


def loud(sign: int) -> None:
    """An outlier class that outweighs the others, so that whoever sees it is found out."""
    weights, record = load_file("net.safetensors"), json.loads(Path("net.json").read_text())
    weights["head.weight"][3] = sign * 40 * weights["head.weight"][3].abs()
    write_network(Path("net.safetensors"), weights, record | {"sha256": sha256(tensor_bytes(weights))})


@pytest.mark.parametrize("objective", ["dos", "openmix"])
def test_detectors_see_the_id_classes_alone(objective, workplace, capsys):
    train("--objective", objective, "--aux", "npz:aux.npz")
    words = [word for name in ("msp", "energy", "react", "outlier-class") for word in ("--detector", name)]
    matters = []
    for sign in (1, -1):
        loud(sign)
        results = report(capsys, *words, "--fit", "npz:id.npz", "--out", f"out{sign}")["results"]
        found = {r["detector"]: r["clean"]["auroc"] for r in results}
        with torch.no_grad():
            logits = [small(4)(x) for x in images()]
        expected = {
            "msp": auroc(*(1 - z[:, :3].softmax(1).amax(1) for z in logits)),
            "energy": auroc(*(-z[:, :3].logsumexp(1) for z in logits)),
            "outlier-class": auroc(*(z[:, 3] - z[:, :3].logsumexp(1) for z in logits)),
        }
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=5e-3)
        matters.append(abs(auroc(*(-z.logsumexp(1) for z in logits)) - expected["energy"]))
    assert max(matters) > 0.1


def test_an_outlier_class_that_is_not_there(workplace, capsys):
    train("--objective", "ce")
    capsys.readouterr()
    assert run("--detector", "outlier-class") == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert "`--detector` outlier-class must have a network with an outlier class" in err
    assert "outlier-class@dos" in err


def test_an_outlier_class_of_unknown_weights_is_believed(workplace, capsys):
    train("--objective", "dos", "--aux", "npz:aux.npz")
    Path("net.json").unlink()
    (result,) = report(capsys, "--detector", "outlier-class")["results"]
    with torch.no_grad():
        found = [small(4)(x).softmax(1)[:, 3] for x in images()]
    assert result["clean"]["auroc"] == pytest.approx(auroc(*found), abs=2e-3)


def test_the_accuracy_is_that_of_the_record_for_the_same_images(workplace):
    train("--objective", "ce")
    record = json.loads(Path("net.json").read_text())
    for name, expected in (("npz:id.npz", record["accuracy"]), ("npz:ood.npz", None)):
        job = Job(id=name, model="small", weights=(Path("net.safetensors"),))
        network = user_network(job, job.weights[0], at_most("npz:id.npz", 2, seed=0), CPU)
        assert network.accuracy == expected


def test_weights_that_do_not_fit_say_which(workplace, capsys):
    train("--objective", "ce")
    capsys.readouterr()
    assert run("--model", "resnet20") == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "net.safetensors: weights must fit the network, got" in err and "missing (" in err and "unexpected (" in err


# --- cutting off ---


def test_the_first_outputs_stay_and_the_network_is_another():
    torch.manual_seed(0)
    whole = Classifier(models.build("small", channels=1, classes=4).eval(), mean=[0.5], std=[0.2])
    cut, x = id_classes(whole, 3), torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(cut(x), whole(x)[:, :3])
    assert cut.network.head.weight.shape == (3, 32) and cut.network.head.out_features == 3
    assert whole.network.head.weight.shape == (4, 32) and whole(x).shape == (2, 4)
    assert torch.equal(cut.run(x).features, whole.run(x).features)
    assert not cut.training and not cut.network.training


def test_every_exit_is_cut():
    torch.manual_seed(0)
    whole = Classifier(ExitNet(1, 4).eval())
    cut, x = id_classes(whole, 3), torch.rand(2, 1, 32, 32)
    for before, after in zip(whole.network.exits(x), cut.network.exits(x), strict=True):
        torch.testing.assert_close(after, before[:, :3])


def test_a_head_of_another_size_is_named():
    whole = Classifier(models.build("small", channels=1, classes=5).eval())
    with pytest.raises(ValueError, match=r"`--model` must end in an nn.Linear with 4 outputs.*got none\. Take another"):
        id_classes(whole, 3)


def test_what_a_record_says_decides():
    whole = Classifier(models.build("small", channels=1, classes=4).eval())
    for record, sees in ((None, whole), ({"outlier_class": None, "classes": 4}, None)):
        network = network_of(whole, record, None)
        assert network.net is whole and network.whole is sees
    network = network_of(whole, {"outlier_class": "the last output", "classes": 3}, 0.9)
    assert network.whole is whole and network.seen_by("outlier-class") is whole
    assert MSP(network.seen_by("msp")).net(torch.rand(1, 1, 32, 32)).shape == (1, 3)
