"""`--data-root`: sets by name below a folder, each part where it belongs, and images that two sets share."""

import json
import struct
import sys

import numpy as np
import pytest
import torch

from oodattack.cli import main
from oodattack.data import load, subset
from oodattack.data.idx import FAMILIES
from oodattack.detectors import DETECTORS
from oodattack.job import Job
from oodattack.job.images import fit_images, fit_moved, load_images
from oodattack.job.training_data import training_data
from oodattack.threat import ThreatModel, read_threat

CODE = """
from torch import nn
def net(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 4)).eval()
def fine(x): return x.flatten(1).mean(1)
"""
THREAT = ThreatModel(
    name="quick", norm="linf", eps=0.03, aim="hide", objective="score", start="ood", init="ball", attack="apgd",
    queries=3, restarts=1, iterate="best", source="test",
)  # fmt: skip


def idx_bytes(array) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(root, name, part, x, y) -> None:
    family = FAMILIES[name]
    folder = root / family.title / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    start = family.train if part == "train" else family.test
    for kind, array in (("images-idx3", x), ("labels-idx1", y)):
        (folder / f"{start}-{kind}-ubyte").write_bytes(idx_bytes(array))


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """MNIST and KMNIST of a few pictures: name and part -> pixels."""
    draw = np.random.default_rng(0)
    found = {}
    for name in ("mnist", "kmnist"):
        for part, n in (("test", 12), ("train", 20)):
            found[name, part] = draw.integers(0, 256, (n, 28, 28), dtype=np.uint8)
            write(tmp_path / "sets", name, part, found[name, part], np.arange(n, dtype=np.uint8) % 4)
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "quick.toml").write_text(
        'norm = "linf"\neps = "8/255"\naim = "hide"\nobjective = "score"\nstart = "ood"\ninit = "ball"\n'
        'attack = "apgd"\nqueries = 3\nrestarts = 1\niterate = "best"\nsource = "test"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # drawing takes longer than training
    monkeypatch.setenv("OODATTACK_CACHE", str(tmp_path / "cache"))
    yield found
    sys.modules.pop("mine", None)


def pixels(x: torch.Tensor) -> np.ndarray:
    return (x[:, 0] * 255).round().byte().numpy()


def test_each_option_loads_its_part(sets, tmp_path):
    job = Job(id="mnist", ood=("kmnist",), fit="mnist", ood_validation="kmnist", data_root=tmp_path / "sets")
    loaded, fit = load_images(job, [THREAT]), fit_images(job, [DETECTORS["mahalanobis-weighted"]])
    assert np.array_equal(pixels(loaded.id.x), sets["mnist", "test"])
    assert np.array_equal(pixels(loaded.ood[0].x), sets["kmnist", "test"])
    assert np.array_equal(pixels(fit.x), sets["mnist", "train"])  # never what is judged on
    assert fit.y.tolist() == [i % 4 for i in range(20)]
    assert fit.ood_val.shape == (12, 1, 28, 28)


def test_fit_on_digits_is_on_those_to_train_with():
    named, default = (
        fit_images(Job(fit="digits"), [DETECTORS["mahalanobis"]]),
        fit_images(Job(), [DETECTORS["mahalanobis"]]),
    )
    assert torch.equal(named.x, default.x) and len(named.x) == 433


def test_samples_are_drawn_and_fewer_are_all(sets, tmp_path):
    job = Job(id="mnist", ood=("kmnist",), data_root=tmp_path / "sets", samples=5)
    loaded = load_images(job, [THREAT])
    assert len(loaded.id.x) == len(loaded.ood[0].x) == 5
    known = [row.tobytes() for row in sets["mnist", "test"]]
    assert all(row.tobytes() in known for row in pixels(loaded.id.x))
    job = Job(id="mnist", ood=("kmnist", "noise"), data_root=tmp_path / "sets", samples=50)
    loaded = load_images(job, [THREAT])
    assert [len(loaded.id.x), *(len(i.x) for i in loaded.ood)] == [12, 12, 50]
    assert loaded.ood[1].x.shape[1:] == (1, 28, 28)


@pytest.fixture
def room(monkeypatch):
    """Room that says for what it was asked; sets of five images are many."""
    monkeypatch.setattr("oodattack.data.disk.AT_ONCE", 4)
    monkeypatch.setattr("oodattack.data.dataset.AT_ONCE", 4)
    asked = []

    def make(like):
        asked.append(tuple(like.shape))
        return torch.empty_like(like)

    make.asked = asked
    return make


def test_what_detectors_are_fitted_on_goes_into_room(sets, tmp_path, room):
    named = {"fit": "mnist", "ood_validation": "kmnist", "id_validation": "mnist"}
    job = Job(id="mnist", ood=("kmnist",), data_root=tmp_path / "sets", **named)
    there, here = (
        fit_images(job, [DETECTORS["mahalanobis-weighted"]], room=room),
        fit_images(job, [DETECTORS["mahalanobis-weighted"]]),
    )
    assert room.asked == [(20, 1, 28, 28), (12, 1, 28, 28), (12, 1, 28, 28)]
    assert all(torch.equal(a, b) for a, b in zip(there, here, strict=True))
    double = fit_moved(there, torch.device("cpu"), torch.float64, room)
    assert len(room.asked) == 6 and torch.equal(double.x, here.x.double()) and torch.equal(double.y, here.y)


@pytest.mark.parametrize("samples", [None, 9, 50])
@pytest.mark.parametrize("name", ["mnist", "npz:all.npz"])
def test_what_networks_are_trained_on_goes_into_room(sets, tmp_path, room, name, samples):
    np.savez(tmp_path / "all.npz", images=sets["mnist", "train"][..., None], labels=np.arange(20) % 2)
    asked = {"needs_aux": True, "root": tmp_path / "sets", "seed": 3, "samples": samples}
    there, here = (training_data(name, "kmnist", **asked, **how) for how in ({"room": room}, {}))
    assert all(
        torch.equal(a, b)
        for a, b in zip([*there.training, *there.held_out], [*here.training, *here.held_out], strict=True)
    )
    n = min(samples or 20, 20 if name == "mnist" else 18)
    if name == "mnist":  # no more is read than that
        assert room.asked == [(n, 1, 28, 28), (12, 1, 28, 28), (20, 1, 28, 28)]
        whole = load(name, part="train", seed=3, root=tmp_path / "sets")
        assert torch.equal(there.training.x, subset(whole, n, seed=3).x)
    else:
        assert room.asked[:3] == [(20, 1, 28, 28), (n, 1, 28, 28), (2, 1, 28, 28)]


def test_samples_without_a_class_are_refused(sets, tmp_path):
    with pytest.raises(ValueError, match="`--samples` must leave images of every class, got none of class"):
        training_data("mnist", None, needs_aux=False, root=tmp_path / "sets", seed=3, samples=2)


def pictures(folder, n, shade) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("L", (16, 16), shade + i).save(folder / f"{i}.png")


def test_a_part_without_labels_is_not_held_out(tmp_path):
    """ImageNet as it is unpacked: the validation pictures are in one folder."""
    for shade, name in ((0, "train/n01"), (100, "train/n02"), (200, "val")):
        pictures(tmp_path / name, 20, shade)
    for samples, n in ((None, 36), (30, 30), (1000, 36)):
        fed = training_data("imagenet", None, needs_aux=False, root=tmp_path, seed=0, samples=samples, protocol="keep")
        assert len(fed.training.x) == n and len(fed.held_out.x) in (3, 4)
        for x, y in ((fed.training.x, fed.training.y), (fed.held_out.x, fed.held_out.y)):
            assert torch.equal(y, (x[:, 0, 0, 0] * 255 >= 100).long())


def test_omniglot_is_measured_on_the_characters_that_it_is_trained_on(tmp_path):
    for part, shade in (("background", 0), ("evaluation", 200)):
        for place in ("greek/a", "greek/b"):
            pictures(tmp_path / "omniglot-py" / f"images_{part}" / place, 20, shade)
    fed = training_data("omniglot", None, needs_aux=False, root=tmp_path, seed=0, samples=None)
    assert (len(fed.training.x), len(fed.held_out.x)) == (36, 4)
    assert fed.held_out.x.amax() * 255 < 50


RUN = ["run", "--detector", "mine:fine", "--threat", "quick.toml", "--id", "mnist", "--ood", "kmnist"]


def test_run_by_name(sets, tmp_path, capsys):
    assert main([*RUN, "--data-root", "sets", "--out", "out", "--json"]) == 0, capsys.readouterr().err
    spec = json.loads(capsys.readouterr().out)["spec"]
    assert (spec["id"]["name"], spec["id"]["n"], spec["ood"][0]["name"]) == ("mnist", 12, "kmnist")
    assert spec["overlaps"] == []


def test_without_the_folder_it_says_where_it_looks(sets, capsys):
    assert main(RUN) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "`mnist` must be on your disk, got no --data-root" in err
    assert main([*RUN, "--data-root", "nowhere"]) == 2
    assert "`--data-root` must name a folder, got 'nowhere'. Check the path." in capsys.readouterr().err


def test_train_by_name(sets, tmp_path, capsys):
    command = (
        "train --objective oe --id mnist --aux kmnist --data-root sets --epochs 1 --batch-size 10 --out n.safetensors"
    )
    assert main(command.split()) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.startswith("n.safetensors: oe, accuracy")
    record = json.loads((tmp_path / "n.json").read_text())
    assert (record["id"], record["aux"], record["classes"]) == ("mnist", "kmnist", 4)


# --- images in two sets ---


def test_a_shared_image_is_told(sets, tmp_path, capsys):
    shared = sets["kmnist", "test"].copy()
    shared = np.concatenate([shared] * 10)[:110] ^ np.arange(110, dtype=np.uint8)[:, None, None]
    shared[7] = sets["mnist", "test"][3]  # fewer than one in a hundred, which would be refused
    shared[8] = sets["mnist", "train"][0]
    write(tmp_path / "sets", "kmnist", "test", shared, np.zeros(110, dtype=np.uint8))
    words = [*RUN, "--detector", "mine:fine", "--data-root", "sets", "--out"]
    assert main([*words, "a", "--json"]) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)["spec"]["overlaps"] == [{"first": "id", "second": "kmnist", "images": 1}]
    assert main([*words, "b"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Warning: 1 image is both in id and in kmnist. Take them out of one." in told


def test_images_that_a_detector_was_fitted_on_count(sets, tmp_path, capsys):
    write(tmp_path / "sets", "mnist", "test", sets["mnist", "train"][:12], np.zeros(12, dtype=np.uint8))
    command = (
        "run --id mnist --ood kmnist --detector mahalanobis --model mine:net --fit mnist --threat quick.toml "
        "--data-root sets"
    )
    assert main([*command.split(), "--out", "o", "--json"]) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)["spec"]["overlaps"] == [
        {"first": "id", "second": "the training images", "images": 12}
    ]


def test_the_embedded_sets_share_nothing():
    """Nor with what the default networks and detectors learn from; told apart at 8 bits."""
    from oodattack.evaluation import Provenance
    from oodattack.job.networks import learnt_by

    job = Job(samples=200)
    loaded, fit = load_images(job, [read_threat("linf-8-255")]), fit_images(job, [DETECTORS["mahalanobis-weighted"]])
    learnt = {**learnt_by(["ce"], job), "the OOD validation images": fit.ood_val}
    judged = {"id": loaded.id.x, "targets": loaded.targets.x, **{i.name: i.x for i in loaded.ood}}
    assert [*learnt] == ["the training images", "the auxiliary images", "the OOD validation images"]
    assert Provenance(learnt=learnt).overlaps(judged) == []


def test_groups_are_written_out_and_named_once():
    job = Job(ood=("digits-6-9", "near", "far"), samples=3)
    loaded = load_images(job, [THREAT])
    assert [i.name for i in loaded.ood] == ["digits-6-9", "photos", "noise", "spirals", "checkerboards"]


def test_a_group_that_the_id_set_does_not_have(tmp_path):
    np.savez(tmp_path / "id.npz", images=np.zeros((4, 32, 32, 3), dtype=np.uint8))
    job = Job(id=f"npz:{tmp_path / 'id.npz'}", ood=("near",), samples=3)
    with pytest.raises(ValueError, match="`near` must go with one of the ID sets digits, cifar-10"):
        load_images(job, [THREAT])
