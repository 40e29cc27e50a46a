"""`oodattack train`: what it writes and says, and every way to ask for the impossible."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from oodattack import models
from oodattack.cli import main
from oodattack.job.recipe import with_numbers
from oodattack.objectives import OBJECTIVES
from oodattack.train import RECIPES, adversaries, read_record

CODE = """
from torch import nn
def net(channels, classes): return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, classes))
def misfit(classes): return nn.Sequential(nn.Flatten(), nn.Linear(100, classes))
def fails(channels): raise OSError("no such\\ncheckpoint")
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch, request):
    """Twenty labelled images of 8 x 8, brighter in one class, and sets that do not go with them."""
    draw = np.random.default_rng(0)
    y = np.arange(20) % 2
    x = (draw.random((20, 1, 8, 8)) / 2 + y[:, None, None, None] / 2).astype(np.float32)
    np.savez(tmp_path / "id.npz", images=x, labels=y)
    np.savez(tmp_path / "aux.npz", images=draw.random((24, 1, 8, 8), dtype=np.float32))
    np.savez(tmp_path / "few.npz", images=draw.random((3, 1, 8, 8), dtype=np.float32))
    np.savez(tmp_path / "rgb.npz", images=draw.random((24, 3, 8, 8), dtype=np.float32))
    np.savez(tmp_path / "tiny.npz", images=x[:5], labels=y[:5])
    np.savez(tmp_path / "one-class.npz", images=x, labels=y * 0)
    np.savez(tmp_path / "rare.npz", images=x, labels=np.arange(20) // 19)
    away = torch.randperm(20, generator=torch.Generator().manual_seed(0))[0].item()
    np.savez(tmp_path / "strange.npz", images=x, labels=np.where(np.arange(20) == away, 2, y))
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "file").write_text("")
    torch.save({"1.weight": torch.zeros(2, 3)}, tmp_path / "other.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("OODATTACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(adversaries, "WIDTH", 8)  # the GAN of the confident classifier, an eighth of its channels
    if "drawn" not in request.node.name:  # drawing takes longer than training
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    yield tmp_path
    sys.modules.pop("mine", None)


BASE = "train --id npz:id.npz --model mine:net --epochs 2 --batch-size 6 --out net.safetensors".split()


def given(*words: str, without: str = "") -> list[str]:
    """A command that works, but for some words."""
    command = list(BASE)
    if without:
        at = command.index(without)
        del command[at : at + 2]
    return [*command, *words]


def asked_for(objective: str) -> list[str]:
    return ["--objective", objective, *(["--aux", "npz:aux.npz"] if OBJECTIVES[objective].needs_aux else [])]


def record() -> dict:
    found = read_record(Path("net.safetensors"))
    assert found is not None
    return found


@pytest.mark.parametrize("objective", [*RECIPES])
def test_every_objective_leaves_weights_and_a_record(objective, workplace, capsys):
    assert main(given(*asked_for(objective))) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    assert err == ""
    found, extra = record(), OBJECTIVES[objective].extra_classes
    lines = out.splitlines()
    assert lines[0] == f"net.safetensors: {objective}, accuracy {found['accuracy']:.4f} on held-out npz:id.npz"
    assert len(lines) == 2 + extra and (not extra or "the last output is the outlier class" in lines[2])
    assert load_file("net.safetensors")["1.weight"].shape == (2 + extra, 64)
    assert (found["objective"], found["classes"], found["outputs"]) == (objective, 2, 2 + extra)
    assert [line["epoch"] for line in found["curve"]] == [1, 2]
    assert {"lr", "loss", "ce", "accuracy", "energy_gradient"} <= set(found["curve"][0])
    assert (found["id"], found["recipe"]["epochs"], found["recipe"]["batch_size"]) == ("npz:id.npz", 2, 6)
    assert all(found["data"][part] for part in ("x", "y")) and len(found["sha256"]) == 64
    assert not Path("net.checkpoint").exists()


def test_a_network_with_exits_is_refused_before_the_one_it_would_start_from(workplace, capsys):
    assert main(given(*asked_for("energy"), "--model", "exits")) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "`model` must be one without exits for energy" in err
    assert not list(Path().rglob("*.safetensors"))


def test_the_curve_is_drawn(workplace, capsys):
    pytest.importorskip("matplotlib")
    assert main(given("--objective", "ce")) == 0
    assert capsys.readouterr().out.splitlines()[1] == (
        "net.json: what it is, and its training curve. net.png: the curve as a picture"
    )
    assert Path("net.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_so(workplace, capsys):
    assert main(given("--objective", "ce")) == 0
    out, _ = capsys.readouterr()
    assert (
        out.splitlines()[1]
        == "net.json: what it is, and its training curve. The extra `plots` (matplotlib) would draw it"
    )
    assert not Path("net.png").exists() and Path("net.json").exists()


def test_options_reach_the_recipe(workplace, capsys):
    words = (
        "--objective greg --aux npz:aux.npz --lr 0.03 --weight 0.2 --weight-decay 0.001 --gradient-term 0.5 "
        "--margin-id -9 --margin-aux -3 --sampler greg+ --seed 4 --precision bfloat16 "
        "--mean 0.5 --std 0.25 --samples 15"
    )
    assert main(given(*words.split())) == 0, capsys.readouterr().err
    found = record()
    recipe = found["recipe"]
    assert [recipe[name] for name in ("lr", "weight", "weight_decay", "penalty", "margin_id", "margin_aux")] == [
        0.03, 0.2, 0.001, 0.5, -9, -3,
    ]  # fmt: skip
    assert (recipe["sampler"], recipe["outliers"]) == ("greg+", 2)
    assert (found["seed"], found["precision"], found["mean"], found["std"]) == (4, "bfloat16", [0.5], [0.25])
    assert "gradient" in found["curve"][0]
    for objective, name, value in (("gq", "quotient", "paper"), ("ibp-oe", "eps", 0.1)):
        assert getattr(with_numbers(RECIPES[objective], {name: value}), name) == value
        assert getattr(RECIPES[objective], name) != value


def test_each_option_changes_the_weights(workplace, capsys):
    seen = {}
    for words in (
        "", "--seed 1", "--lr 0.02", "--weight-decay 0.5", "--gradient-term 2", "--sampler greedy", "--samples 15",
        "--weight 2", "--margin-aux -20", "--mean 0.5 --std 0.2", "--epochs 3",
    ):  # fmt: skip
        start = "train --objective energy --recipe energy-cifar-10 --id npz:id.npz --aux npz:aux.npz --model mine:net"
        more = f"--epochs 2 --batch-size 6 --lr 0.1 --out net.safetensors {words}"
        assert main([*start.split(), *more.split()]) == 0, capsys.readouterr().err
        seen[words] = load_file("net.safetensors")["1.weight"].tolist()
    assert len({json.dumps(weights) for weights in seen.values()}) == len(seen)


def test_a_recipe_of_a_paper_names_the_objective(workplace, capsys):
    assert main(given("--recipe", "gq-cifar")) == 0
    assert capsys.readouterr().out.startswith("net.safetensors: gq, accuracy")
    assert record()["recipe"]["nesterov"] is False


def test_weights_to_start_from(workplace, capsys):
    assert main(given("--objective", "ce")) == 0
    first = load_file("net.safetensors")["1.weight"]
    tune = given(
        "--objective", "oe", "--aux", "npz:aux.npz", "--weights", "net.safetensors", "--lr", "1e-9", without="--out"
    )
    assert main([*tune, "--out", "tuned.safetensors"]) == 0, capsys.readouterr().err
    assert (load_file("tuned.safetensors")["1.weight"] - first).abs().max() < 1e-5
    assert read_record(Path("tuned.safetensors"))["weights"] == "net.safetensors"


def test_a_network_of_ours_by_name(workplace, capsys):
    draw = np.random.default_rng(0)
    np.savez("id.npz", images=draw.random((20, 1, 32, 32)), labels=np.arange(20) % 3)
    command = given("--objective", "ce", "--model", "resnet20", without="--model")
    assert main([*command, "--epochs", "1"]) == 0, capsys.readouterr().err
    network = models.build("resnet20", channels=1, classes=3)
    network.load_state_dict(load_file("net.safetensors"))


def test_a_second_time_it_comes_from_the_cache(workplace, capsys):
    assert main(given("--objective", "ce")) == 0
    before = {path.name: path.stat().st_mtime_ns for path in (workplace / "cache" / "networks").iterdir()}
    content = Path("net.safetensors").read_bytes()
    Path("net.safetensors").unlink()
    assert main(given("--objective", "ce")) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (workplace / "cache" / "networks").iterdir()} == before
    assert Path("net.safetensors").read_bytes() == content


def test_images_in_two_sets_are_told(workplace, capsys):
    with np.load("id.npz") as found:
        images, y = found["images"], found["labels"]
    np.savez("aux.npz", images=np.concatenate([images[:4], 1 - images]))
    np.savez("id.npz", images=images, labels=y)
    assert main(given(*asked_for("oe"))) == 0
    out, _ = capsys.readouterr()
    shared = record()["overlaps"]
    assert {pair[1] for pair in shared} == {"auxiliary images"}
    assert sum(pair[2] for pair in shared) == 4  # each trained on or held out
    assert out.splitlines()[2:] == [
        f"Warning: images in common: {n} both in {a} and in {b}. Take them out of one." for a, b, n in shared
    ]


BAD = {
    "nothing asked": (given(), ["`--objective` or `--recipe` must be given", "got neither", "list objectives"]),
    "objective": (given("--objective", "gregg"), ["`--objective` must be one of ce", "Did you mean 'greg'?"]),
    "recipe": (given("--recipe", "gq-cifr"), ["`--recipe` must be one of", "Did you mean 'gq-cifar'?"]),
    "recipe of another": (
        given("--objective", "ce", "--recipe", "gq-cifar"),
        ["`--recipe` must be one of ce, got 'gq-cifar', which is one of gq", "Drop --objective"],
    ),
    "no outliers": (
        given("--objective", "oe"),
        ["`--aux` must name outliers", "'npz:id.npz', got none", "Add a data set"],
    ),
    "outliers without a use": (
        given("--objective", "ce", "--aux", "npz:aux.npz"),
        ["`--aux` must be left out", "got 'npz:aux.npz'", "Drop it"],
    ),
    "outliers of another shape": (
        given("--objective", "oe", "--aux", "npz:rgb.npz"),
        ["`--aux` must have the shape (1, 8, 8)", "got (3, 8, 8)", "Resize"],
    ),
    "few outliers": (
        given("--objective", "dos", "--aux", "npz:few.npz"),
        ["`aux` must hold 6 images for the sampler dos", "got 3", "Add some"],
    ),
    "unknown set": (given("--objective", "oe", "--aux", "tiny-imagenett"), ["must be one of", "got 'tiny-imagenett'"]),
    "id without labels": (
        ["train", "--objective", "ce", "--id", "npz:aux.npz", "--out", "x.safetensors"],
        ["`--id` must have labels", "got none in 'npz:aux.npz'", "`labels`"],
    ),
    "few images": (
        ["train", "--objective", "ce", "--id", "npz:tiny.npz", "--out", "x.safetensors"],
        ["`--id` must have 10 images or more", "got 5", "A tenth is held out"],
    ),
    "one class": (given("--objective", "ce", "--id", "npz:one-class.npz"), ["`y` must have two classes", "got one"]),
    "class lost": (
        given("--objective", "ce", "--id", "npz:rare.npz", "--samples", "3"),
        ["`--samples` must leave images of every class", "got none of class 1", "Raise it"],
    ),
    "class held out": (
        given("--objective", "ce", "--id", "npz:strange.npz"),
        ["`--id` must leave images of every class", "got none of class 2 to train on", "Add some, or correct"],
    ),
    "model": (given("--objective", "ce", "--model", "smal"), ["must be one of small", "Did you mean 'small'?"]),
    "model that fails": (
        given("--objective", "ce", "--model", "mine:fails"),
        ["`mine:fails` must make a network", "OSError: no such checkpoint", "Correct it"],
    ),
    "model for other images": (
        given("--objective", "ce", "--model", "mine:misfit"),
        ["`network` must take images (1, 8, 8)", "RuntimeError", "resize the images"],
    ),
    "weights missing": (
        given("--objective", "ce", "--weights", "no.pt"),
        ["no.pt: weights must exist", "Check the path"],
    ),
    "weights of another": (
        given("--objective", "ce", "--weights", "other.pt"),
        ["weights must fit the network", "1 missing (1.bias)", "1.weight: (2, 3) for (2, 64)"],
    ),
    "mean alone": (
        given("--objective", "ce", "--mean", "0.5"),
        ["`mean` and `std` must have one number a channel each"],
    ),
    "mean of colours": (
        given("--objective", "ce", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2"),
        ["`x` must have 3 channels as `mean` has, got 1"],
    ),
    "mean that is no number, before images are read": (
        given("--objective", "ce", "--id", "npz:gone.npz", "--mean", "nan", "--std", "1"),
        ["`mean` must be finite, got (nan,)"],
    ),
    "std of zero": (given("--objective", "ce", "--mean", "0.5", "--std", "0"), ["`std` must be > 0", "(0.0,)"]),
    "epochs": (given("--objective", "ce", "--epochs", "0"), ["`--epochs` must be in [1, 1e9], got 0", "Raise it"]),
    "batch size": (given("--objective", "ce", "--batch-size", "0"), ["`--batch-size` must be in [1, 1e9], got 0"]),
    "lr": (given("--objective", "ce", "--lr", "nan"), ["`--lr` must be in (0, 1e38], got nan"]),
    "weight": (given("--objective", "gq", "--weight", "-1"), ["`--weight` must be in [0, 1e9]", "got -1.0"]),
    "eps": (given(*asked_for("ibp-oe"), "--eps", "-1"), ["`--eps` must be in [0, 1e9], got -1.0"]),
    "quotient": (given("--objective", "gq", "--quotient", "book"), ["--quotient", "'book'", "paper"]),
    "outliers of no name": (
        given("--objective", "oe", "--aux", "svnh"),
        ["Did you mean 'svhn'?", "`--aux` must be one of digits,"],
    ),
    "weight of nothing": (
        given("--objective", "ce", "--weight", "1"),
        ["`--weight` must be left out for ce, got 1.0", "Only gq, energy"],
    ),
    "quotient of another": (
        given(*asked_for("oe"), "--quotient", "paper"),
        ["`--quotient` must be left out for oe, got 'paper'. Only gq reads it."],
    ),
    "eps of another": (given(*asked_for("oe"), "--eps", "0.1"), ["`--eps` must be left out", "Only ibp-oe reads it."]),
    "margins of another": (
        given(*asked_for("oe"), "--margin-id", "-5"),
        ["`--margin-id` must be left out for oe, got -5.0", "energy, greg, greg+, poem"],
    ),
    "weight decay": (given("--objective", "ce", "--weight-decay", "-1"), ["`--weight-decay` must be in [0, 1e9]"]),
    "gradient term": (
        given("--objective", "ce", "--gradient-term", "1"),
        ["`--gradient-term` must be 0 for ce, got 1.0", "take energy, greg, greg+, poem, oe, dos"],
    ),
    "margins": (
        given(*asked_for("greg"), "--margin-id", "-5", "--margin-aux", "-9"),
        ["`--margin-id` must be < `--margin-aux`, got -5.0 and -9.0", "Swap"],
    ),
    "sampler": (given(*asked_for("oe"), "--sampler", "gready"), ["`--sampler` must be one of random", "got 'gready'"]),
    "sampler of another class": (
        given(*asked_for("oe"), "--sampler", "dos"),
        ["`--sampler` must be another than dos for oe", "openmix"],
    ),
    "sampler without outliers": (
        given("--objective", "ce", "--sampler", "greedy"),
        ["`--sampler` must be left out for ce, got 'greedy'"],
    ),
    "a loss without end": (
        given("--objective", "ce", "--lr", "1e9"),
        ["the loss must stay finite", "Lower the learning rate"],
    ),
    "number in words": (given("--objective", "ce", "--lr", "high"), ["--lr", "'high'", "oodattack train --help"]),
    "precision": (given("--objective", "ce", "--precision", "half"), ["--precision", "'half'", "bfloat16"]),
    "checkpoints in the past": (given("--objective", "ce", "--checkpoint-every", "-1"), ["--checkpoint-every", "-1"]),
    "device": (given("--objective", "ce", "--device", "cuda:7"), ["`--device` must be there", "got 'cuda:7'"]),
    "data root": (
        given("--objective", "ce", "--id", "cifar-10", "--data-root", "nowhere"),
        ["`--data-root` must name a folder, got 'nowhere'", "Check the path"],
    ),
    "out of another kind": (
        ["train", "--objective", "ce", "--out", "x.pt"],
        ["`--out` must end in .safetensors", "got 'x.pt'", "Rename"],
    ),
    "out below a file": (
        ["train", "--objective", "ce", "--out", "file/x.safetensors"],
        ["`--out` must be writable, got 'file/x.safetensors'", "Choose another"],
    ),
    "out missing": (["train", "--objective", "ce"], ["--out", "oodattack train --help"]),
}


@pytest.mark.parametrize(("command", "words"), BAD.values(), ids=BAD)
def test_bad_use(command, words, workplace, capsys):
    before = sorted(workplace.rglob("*"))
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("oodattack: ") and len(err.splitlines()) == 1, err
    assert [word for word in words if word not in err] == [], err
    assert sorted(workplace.rglob("*")) == before


def test_out_in_a_folder_that_is_not_there_yet(workplace, capsys):
    assert main([*given("--objective", "ce", without="--out"), "--out", "deep/er/net.safetensors"]) == 0
    assert sorted(path.name for path in (workplace / "deep" / "er").glob("net.[js]*")) == [
        "net.json",
        "net.safetensors",
    ]


def test_another_command_for_the_same_file_is_refused_while_the_first_is_unfinished(workplace, capsys, monkeypatch):
    import oodattack.train.loop as loop

    real, steps = loop.one_step, []

    def interrupted(*args):
        if len(steps) == 4:
            raise KeyboardInterrupt
        steps.append(real(*args))

    monkeypatch.setattr(loop, "one_step", interrupted)
    command = given("--objective", "ce", "--checkpoint-every", "0")
    assert main(command) == 130
    assert capsys.readouterr().err.split()[-1] == "interrupted"
    assert not Path("net.safetensors").exists()
    monkeypatch.setattr(loop, "one_step", real)
    assert main([*command, "--lr", "0.05"]) == 2
    assert "checkpoint must have `recipe.lr` 0.05, got 0.1" in capsys.readouterr().err
    assert main(command) == 0
    assert record()["resumed"] == [4]
    assert not Path("net.checkpoint").exists()
