"""Room on disk, blocks as files, and results through both."""

import errno
import os

import pytest
import torch

from oodattack.attack import Found
from oodattack.data import disk
from oodattack.data.disk import room_on_disk
from oodattack.evaluation.outcome import to_8_bits
from oodattack.runs.evidence import inside
from oodattack.runs.journal import Journal
from oodattack.whole_file import file_name


def found(n: int, *, history: bool = True) -> Found:
    draw = torch.Generator().manual_seed(0)
    count = torch.arange(n)
    x_adv, value = torch.rand(n, 1, 2, 2, generator=draw), torch.rand(n, generator=draw)
    more = (torch.rand(n, 3, generator=draw), None) if history else (None, None)
    return Found(x_adv, value, count, count, count, count, count > 1, count, *more)


def same(a: Found, b: Found | None) -> bool:
    return b is not None and all(
        (x is None and y is None) or (x is not None and torch.equal(x, y)) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("history", [True, False])
def test_a_block_comes_back_as_it_was(tmp_path, history):
    journal, block = Journal(tmp_path / "j", "plan"), found(5, history=history)
    assert journal.read("key") is None
    journal.write("key", block)
    assert same(block, journal.read("key"))
    assert Journal(tmp_path / "j", "plan").read("key") is not None
    assert Journal(tmp_path / "j", "another plan").read("key") is None
    assert journal.read("another key") is None


def test_every_byte_of_a_block_counts(tmp_path):
    journal = Journal(tmp_path, "plan")
    journal.write("key", found(2))
    path = journal.path("key")
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert journal.read("key") is None
    for end in range(0, len(data), 7):
        path.write_bytes(data[:end])
        assert journal.read("key") is None


def test_large_room_is_on_disk_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "SMALL", 0)
    x = torch.rand(10, 3, 4, 4, dtype=torch.float64)
    room = room_on_disk(x, tmp_path)
    assert list(tmp_path.iterdir()) == [] and room.shape == x.shape and room.dtype == x.dtype
    assert torch.equal(room.copy_(x), x)
    room[3] = 0
    assert not room[3].any() and torch.equal(room[4], x[4])
    assert room_on_disk(torch.empty((), dtype=torch.uint8).expand(2, 3), tmp_path).dtype == torch.uint8


def test_room_that_is_not_there_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "SMALL", 0)

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk, "reserve", full)
    with pytest.raises(ValueError, match=r"must have 0 MiB of space left, got No space left on device\. Make room"):
        room_on_disk(torch.rand(3), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_become_files_that_do_not_meet():
    names = ["a", "a/b", "a-b", "a b", "npz:x.npz", "npz:x npz", "../x", "é", "è", "x" * 200, "x" * 201, "", ".."]
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert all(file and "/" not in file and not file.startswith(".") and len(file) < 100 for file in files)
    assert file_name("energy@greg+") == "energy@greg+"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x"])
def test_no_file_outside_of_the_run_is_read(tmp_path, name):
    with pytest.raises(ValueError, match="must be inside the run directory"):
        inside(tmp_path, name)


def test_to_8_bits_rounds():
    x = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0])
    assert to_8_bits(x).tolist() == [0, 0, 1, 255]
    bits = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_8_bits(bits.float() / 255), bits)
