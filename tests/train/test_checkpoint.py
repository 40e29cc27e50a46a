"""Checkpoints as files: nested states and back, what is damaged is noticed, one is always whole."""

import json
import os

import pytest
import torch

from oodattack.train import checkpoint
from oodattack.train.checkpoint import read, write
from oodattack.train.tree import pack, unpack

IDENTITY = {"recipe": {"objective": "ce", "lr": 0.1, "milestones": (0.5,)}, "seed": 0, "classes": 3}
WEIGHTS = {"a": torch.tensor([1.0, 2.0]), "b": torch.arange(3)}
STATE = {"epoch": 2, "sums": {"loss": torch.tensor(1.5, dtype=torch.float64)}, "none": None, "past": [torch.ones(2)]}


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def test_what_was_written_is_read(tmp_path):
    write(tmp_path / "c", IDENTITY, WEIGHTS, STATE, 7)
    found = read(tmp_path / "c", IDENTITY)
    assert equal(found.weights, WEIGHTS) and equal(found.state, STATE)


def test_nothing_there_is_no_checkpoint(tmp_path):
    assert read(tmp_path, IDENTITY) is None
    assert read(tmp_path / "nowhere", IDENTITY) is None


def test_states_of_optimisers_survive():
    # keys that are numbers, tuples of floats, tensors without a dimension or without an entry
    tree = {
        "state": {0: {"step": torch.tensor(3.0), "buffer": torch.zeros(2, 0)}, 1: {}},
        "groups": [{"betas": (0.9, 0.999), "nesterov": True, "foreach": None, "lr": 1e-3}],
        "dict": {"tensor": "a key with the name of a mark"},
    }
    tensors = {}
    node = json.loads(json.dumps(pack(tree, tensors)))
    found = unpack(node, tensors)
    assert found["groups"][0].pop("betas") == [0.9, 0.999]  # a tuple becomes a list
    tree["groups"][0].pop("betas")
    assert equal(found, tree)


def test_packed_tensors_are_copies():
    tensors, x = {}, torch.zeros(2)
    pack({"x": x}, tensors)
    x += 1
    assert tensors["state.x"].tolist() == [0, 0]


def test_only_plain_things_are_packed():
    with pytest.raises(TypeError, match=r"state\.schedule must be made of tensors and plain values, got function"):
        pack({"schedule": len and (lambda: 0)}, {})


@pytest.mark.parametrize("name", ["weights-7.safetensors", "state-7.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "one bit", "missing"])
def test_damage_is_noticed(name, damage, tmp_path):
    write(tmp_path, IDENTITY, WEIGHTS, STATE, 7)
    file = tmp_path / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        spoilt = {
            "truncated": content[:-4],
            "empty": b"",
            "one bit": content[:-4] + bytes([content[-4] ^ 1]) + content[-3:],
        }
        file.write_bytes(spoilt[damage])
    if name == "checkpoint.json" and damage == "missing":
        assert read(tmp_path, IDENTITY) is None
        return
    with pytest.raises(ValueError, match=rf"{name}: must .* Delete the folder to begin anew\.$"):
        read(tmp_path, IDENTITY)


@pytest.mark.parametrize("text", ["[]", '{"format": 99}', "null", "{}"])
def test_a_json_of_something_else_is_refused(text, tmp_path):
    (tmp_path / "checkpoint.json").write_text(text)
    with pytest.raises(ValueError, match=r"checkpoint\.json: `format` must be 2, got another\. Delete"):
        read(tmp_path, IDENTITY)


DEEP = "[" * 900 + "]" * 900
RECORDS = {
    "nested": "[" * 200_000,
    "nothing": '{"format": 2}',
    "no files": '{"format": 2, "identity": {}, "files": {}, "state": 0}',
    "lists": '{"format": 2, "identity": [], "files": [], "state": 0}',
    "deep": f'{{"format": 2, "identity": {{"seed": {DEEP}}}, "files": {{"a": "", "b": ""}}, "state": 0}}',
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_record_that_was_tampered_with_is_one_line(what, tmp_path):
    (tmp_path / "checkpoint.json").write_text(RECORDS[what])
    with pytest.raises(ValueError, match=r"Delete the folder to begin anew\.$"):
        read(tmp_path, IDENTITY)


@pytest.mark.parametrize("state", [None, {"tensor": "x"}, {"dict": 3}, {"other": 1}])
def test_a_state_that_was_tampered_with_is_one_line(state, tmp_path):
    write(tmp_path, IDENTITY, WEIGHTS, STATE, 7)
    path = tmp_path / "checkpoint.json"
    record = json.loads(path.read_text()) | {"state": state}
    path.write_text(json.dumps(record))
    with pytest.raises(
        ValueError, match=r"checkpoint\.json: must be as it was written, got another sha256: it is dama"
    ):
        read(tmp_path, IDENTITY)
    del record["sha256"]
    path.write_text(json.dumps(record | {"sha256": checkpoint.digest(record)}))  # by somebody who knows how
    if state is None:
        assert read(tmp_path, IDENTITY).state is None  # the loop refuses it
        return
    with pytest.raises(ValueError, match=r"checkpoint\.json: must be as it was written, but it cannot be read"):
        read(tmp_path, IDENTITY)


def test_a_state_that_json_cannot_hold_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "c", IDENTITY, WEIGHTS, {"loss": float("nan")}, 7)
    assert not (tmp_path / "c").exists()


DIFFERENT = {
    "seed": (IDENTITY | {"seed": 1}, "`seed` 1, got 0"),
    "deep": (IDENTITY | {"recipe": IDENTITY["recipe"] | {"lr": 0.2}}, r"`recipe\.lr` 0\.2, got 0\.1"),
    "more": (IDENTITY | {"device": "cpu"}, "`device` 'cpu', got None"),
    "less": ({key: value for key, value in IDENTITY.items() if key != "classes"}, "`classes` None, got 3"),
}


@pytest.mark.parametrize(("wanted", "message"), DIFFERENT.values(), ids=DIFFERENT)
def test_another_identity_is_refused_by_its_field(wanted, message, tmp_path):
    write(tmp_path, IDENTITY, WEIGHTS, STATE, 7)
    with pytest.raises(ValueError, match=f"^{tmp_path}: checkpoint must have {message}"):
        read(tmp_path, wanted)


def test_the_one_before_stays_whole_until_the_next_is(tmp_path, monkeypatch):
    """Whatever the moment: each rename in turn fails, as a kill right before it would."""
    write(tmp_path, IDENTITY, WEIGHTS, STATE, 1)
    real, moments = os.replace, 0
    for moment in range(3):  # weights, state, JSON
        calls = 0

        def dies(source, target, moment=moment):
            nonlocal calls
            calls += 1
            if calls > moment:
                raise KeyboardInterrupt
            real(source, target)

        monkeypatch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, IDENTITY, {"a": torch.zeros(1)}, {"epoch": 9}, 2)
        monkeypatch.setattr(os, "replace", real)
        assert equal(read(tmp_path, IDENTITY).state, STATE)
        moments += 1
    assert moments == 3
    write(tmp_path, IDENTITY, {"a": torch.zeros(1)}, {"epoch": 9}, 2)
    assert read(tmp_path, IDENTITY).state == {"epoch": 9}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "checkpoint.json",
        "weights-2.safetensors",
        "state-2.safetensors",
    }  # halves of files, too, are gone


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/c: checkpoint folder must be writable, got Not a directory\. Name an"):
        write(tmp_path / "file" / "c", IDENTITY, WEIGHTS, STATE, 1)


def test_a_checkpoint_says_what_it_is_of(tmp_path):
    write(tmp_path, IDENTITY, WEIGHTS, STATE, 7)
    record = json.loads((tmp_path / checkpoint.NAME).read_text())
    assert (record["objective"], record["classes"], record["steps"]) == ("ce", 3, 7)
    assert record["identity"]["recipe"]["milestones"] == [0.5]
