"""Networks as files: what is beside the weights, hashes, the curve as a picture."""

import hashlib
import json
import struct
import sys

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.identity import digest
from oodattack.train import checked_record, curve_png, read_record, write_network
from oodattack.train.files import tensor_bytes, weights_of
from oodattack.train.record import record_of
from oodattack.whole_file import replace_file

WEIGHTS = {"head.weight": torch.ones(4, 2), "head.bias": torch.zeros(4)}
FACTS = {"objective": "dos", "classes": 3, "accuracy": 0.5, "curve": [{"epoch": 1, "loss": 2.0}]}


def test_a_record_says_what_the_outputs_are(tmp_path):
    path = tmp_path / "deep" / "net.safetensors"
    write_network(path, WEIGHTS, record_of(WEIGHTS, FACTS, extra_classes=1))
    record = read_record(path)
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (record["classes"], record["outputs"]) == (3, 4)
    assert record["outlier_class"].startswith("the last output is the outlier class")
    assert record["curve"] == FACTS["curve"]
    plain = record_of(WEIGHTS, FACTS | {"classes": 4}, extra_classes=0)
    assert (plain["outputs"], plain["outlier_class"]) == (4, None)


def test_a_record_of_other_weights_is_none(tmp_path):
    path = tmp_path / "net.safetensors"
    assert read_record(path) is None
    write_network(path, WEIGHTS, record_of(WEIGHTS, FACTS, extra_classes=1))
    path.write_bytes(tensor_bytes({"head.weight": torch.zeros(4, 2)}))
    assert read_record(path) is None
    write_network(path, WEIGHTS, record_of(WEIGHTS, FACTS, extra_classes=1))
    for text in ("", "[]", "{}", path.with_suffix(".json").read_text().replace('"format": 1', '"format": 9')):
        path.with_suffix(".json").write_text(text)
        assert read_record(path) is None


def test_what_json_cannot_hold_is_not_written(tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_network(path, WEIGHTS, record_of(WEIGHTS, FACTS | {"accuracy": float("nan")}, extra_classes=1))
    assert not path.exists()


BESIDE = {
    "nested": ("[" * 200_000, "must be JSON"),
    "cut": ('{"format": 1, "sha2', "must be JSON"),
    "nothing": ({}, "`classes` must be as it was written"),
    "other weights": ({"sha256": "0" * 64}, "`sha256` must be that of net.safetensors, got that of other weights"),
    "later": ({"format": 9}, "`format` must be 1, got another"),
    "classes": ({"classes": "3", "outputs": 4}, "`classes` must be"),
    "scale": ({"classes": 3, "outputs": 4, "accuracy": 1, "mean": {"a": 1}}, "`mean` must be"),
}


@pytest.mark.parametrize("what", BESIDE)
def test_a_record_that_does_not_fit_is_one_line(tmp_path, what):
    path = tmp_path / "net.safetensors"
    write_network(path, WEIGHTS, {})
    change, message = BESIDE[what]
    known = {"format": 1, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    text = change if isinstance(change, str) else json.dumps(known | change)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        checked_record(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path / "net.json"))
    assert read_record(path) is None  # the cache trains anew


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"model": "resnet", "format": "pt"}'])
def test_a_json_of_somebody_else_is_none(tmp_path, text):
    path = tmp_path / "net.safetensors"
    write_network(path, WEIGHTS, {})
    path.with_suffix(".json").write_text(text)
    assert checked_record(path) is None


def test_weights_come_without_the_normalisation_and_as_copies():
    network = nn.Linear(2, 2)
    found = weights_of(Classifier(network, mean=[0.5], std=[0.2]))
    assert [*found] == ["weight", "bias"]
    with torch.no_grad():
        network.bias += 1
    assert not torch.equal(found["bias"], network.bias)


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "a" / "b.json"
    replace_file(path, b"one")
    monkeypatch.setattr("os.fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"two")
    assert path.read_bytes() == b"one"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64, torch.bfloat16])
def test_digest_is_of_type_shape_and_bytes(dtype, monkeypatch):
    x = torch.arange(24).view(4, 3, 2).to(dtype)
    raw = x.view(torch.uint8) if dtype != torch.uint8 else x
    expected = hashlib.sha256(f"{dtype} [4, 3, 2]".encode() + raw.numpy().tobytes()).hexdigest()
    assert digest(x) == expected
    monkeypatch.setattr("oodattack.identity.ROWS", 3)  # however many rows at a time
    assert digest(x) == expected
    assert digest(x.transpose(0, 1).contiguous().transpose(0, 1)) == expected  # however it lies in memory
    assert digest(x.view(3, 4, 2)) != expected


# --- the curve as a picture ---

CURVE = [{"epoch": i, "lr": 0.1, "loss": 3.0 / i, "ce": 2.0 / i, "energy": 1.0 / i} for i in (1, 2, 3)]


def size_of(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">2I", png[16:24])


def test_a_panel_for_each_thing_that_was_measured():
    pytest.importorskip("matplotlib")
    one = size_of(curve_png(CURVE))
    measured = [line | {"accuracy": 0.9, "energy_gradient": 5.0} for line in CURVE]
    three = size_of(curve_png(measured))
    assert one[1] == three[1] and three[0] == 3 * one[0]
    assert size_of(curve_png(CURVE[:1])) == one


def test_the_picture_shows_the_numbers(monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []

    class Spy(figure.Figure):
        def savefig(self, *args, **options):
            drawn.extend(
                (axes.get_ylabel(), {line.get_label(): [*line.get_ydata()] for line in axes.lines})
                for axes in self.axes
            )
            super().savefig(*args, **options)

    monkeypatch.setattr(figure, "Figure", Spy)
    curve_png([line | {"accuracy": 0.9} for line in CURVE])
    (loss, terms), (label, accuracy) = drawn
    assert (loss, label) == ("loss", "ID accuracy")
    assert terms == {"loss": [3.0, 1.5, 1.0], "ce": [2.0, 1.0, 2 / 3], "energy": [1.0, 0.5, 1 / 3]}
    assert [*accuracy.values()] == [[0.9] * 3]


def test_without_matplotlib_the_picture_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(ModuleNotFoundError):
        curve_png(CURVE)


def test_records_are_json(tmp_path):
    path = tmp_path / "net.safetensors"
    write_network(path, WEIGHTS, record_of(WEIGHTS, FACTS, extra_classes=1))
    assert json.loads(path.with_suffix(".json").read_text())["objective"] == "dos"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
