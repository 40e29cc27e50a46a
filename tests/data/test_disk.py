"""Images on disk: room, copies piece by piece, and sets that are read into it."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from oodattack.data import DATASETS, Images, disk, load
from oodattack.data.dataset import Opened, Request, drawn, taken
from oodattack.data.disk import copied, forget_pages, moved, picked, put, room_on_disk
from oodattack.data.noise import noise
from oodattack.data.starts import start_images

X = torch.rand(600, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def room(tmp_path, monkeypatch):
    """Room on disk for whatever comes; counts how often it was asked."""
    monkeypatch.setattr(disk, "SMALL", 0)
    (tmp_path / "room").mkdir()
    asked = []

    def make(like):
        asked.append(like.shape)
        return room_on_disk(like, tmp_path / "room")

    make.asked = asked
    return make


def test_forgotten_pages_are_read_again(room):
    out = copied(X, room)
    forget_pages()
    assert torch.equal(out, X)
    out[7] = 0.5
    forget_pages()
    assert (out[7] == 0.5).all() and torch.equal(out[8:], X[8:])


def test_what_moves_to_another_precision_is_written_into_room(room):
    cpu = torch.device("cpu")
    assert moved(X, cpu, torch.float32, room) is X and not room.asked
    assert torch.equal(moved(X, cpu, torch.float64, room), X.double()) and room.asked == [X.shape]


def test_rows_are_picked_and_put_like_indices(room):
    draw = torch.Generator().manual_seed(1)
    rows = torch.randperm(len(X), generator=draw)[:300]
    assert torch.equal(picked(X, rows, room), X[rows])
    images, which = torch.rand(300, 3, 4, 4, generator=draw), torch.rand(300, generator=draw) < 0.9
    out, expected = X.clone(), X.clone()
    put(out, rows, images, which)
    expected[rows[which]] = images[which]
    assert torch.equal(out, expected)


@pytest.mark.parametrize("samples", [None, 300, 100])
def test_a_set_in_room_of_its_own_is_the_same_set(room, tmp_path, samples):
    pixels = np.random.default_rng(0).integers(0, 256, (600, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(600))
    name = f"npz:{tmp_path / 'a.npz'}"
    there, here = load(name, samples=samples, seed=3, room=room), load(name, samples=samples, seed=3)
    assert torch.equal(there.x, here.x) and torch.equal(there.y, here.y)
    assert len(room.asked) == (samples != 100)  # what fits in one piece needs none


def test_no_more_than_a_piece_of_an_archive_becomes_floats_at_once(room, tmp_path, monkeypatch):
    from oodattack.data import arrays

    np.savez(tmp_path / "a.npz", images=np.zeros((600, 8, 8, 3), dtype=np.uint8))
    seen, real = [], arrays.to_images
    monkeypatch.setattr(arrays, "to_images", lambda x, y, name: seen.append(len(x)) or real(x, y, name))
    load(f"npz:{tmp_path / 'a.npz'}", seed=0, room=room)
    assert seen == [256, 256, 88]


def test_labels_of_a_piece_do_not_outlive_it(room):
    alive = weakref.WeakSet()

    def take(rows, _steps):
        assert len(alive) <= 2  # of the first piece and of the last
        y = rows.clone()
        alive.add(y)
        return Images("set", torch.zeros(len(rows), 1, 2, 2), y, "")

    found = taken(Opened(2000, take), torch.arange(2000), (), room)
    assert torch.equal(found.y, torch.arange(2000))


@pytest.mark.parametrize("without", [0, 300])
def test_a_set_has_labels_only_if_all_its_pieces_do(room, without):
    def take(rows, _steps):
        return Images("set", torch.zeros(len(rows), 1, 2, 2), None if without in rows else rows, "")

    assert taken(Opened(600, take), torch.arange(600), (), room).y is None


@pytest.mark.parametrize("name", [name for name, of in DATASETS.items() if of.afresh])
def test_a_set_that_is_drawn_is_the_same_piece_by_piece(room, name):
    look = {"samples": 300, "channels": 1, "size": 16, "seed": 3}
    there, here = load(name, **look, room=room), load(name, **look)
    assert room.asked == [(300, 1, 16, 16)]
    assert torch.equal(there.x, here.x)


def test_no_more_than_a_piece_is_drawn_at_once(room):
    seen = []
    dataset = drawn("mine", "here", "noise", lambda rows, **look: seen.append(len(rows)) or noise(rows, **look))
    taken(dataset.load(Request("test", 600, 1, 8, 0)), torch.arange(600), (), room)
    assert seen == [256, 256, 88]


@pytest.mark.parametrize("kind", ["noise", "grey-spiral"])
def test_start_images_are_put_into_room(room, kind):
    there, here = (start_images(kind, 300, channels=1, size=8, seed=0, **how) for how in ({"room": room}, {}))
    assert room.asked == [(300, 1, 8, 8)] and torch.equal(there, here)


def pictures(folder, sizes_and_modes):
    (folder / "set").mkdir()
    for i, (size, mode) in enumerate(sizes_and_modes):
        Image.new(mode, (size, size), i % 256 if mode == "L" else (i % 256, 0, 9)).save(folder / "set" / f"{i:03}.png")
    return f"folder:{folder / 'set'}"


def test_colour_after_a_piece_of_grey(room, tmp_path):
    name = pictures(tmp_path, [(8, "L")] * 257 + [(8, "RGB")] * 3)
    there, here = load(name, seed=0, room=room), load(name, seed=0)
    assert there.x.shape == (260, 3, 8, 8) and torch.equal(there.x, here.x)


def test_pieces_of_two_sizes_are_refused(room, tmp_path):
    name = pictures(tmp_path, [(8, "L")] * 256 + [(9, "L")])
    for how in ({}, {"room": room}):
        with pytest.raises(ValueError, match="must hold pictures of one size, got 8 x 8 and 9 x 9"):
            load(name, seed=0, **how)
