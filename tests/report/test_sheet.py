"""Contact sheets: what is where, and that nothing was touched up."""

import io

import numpy as np
import pytest
import torch

from oodattack.evaluation import evaluate
from oodattack.report.sheet import BOTTOM, GAP, LEFT, TILE, TOP, Shown, contact_sheet, picture, sheet_path
from oodattack.threat import ThreatModel

LIMITS = ThreatModel(
    name="t", norm="linf", eps=0.1, aim="hide", objective="score", start="ood", init="ball", attack="apgd", queries=3,
    restarts=1, iterate="best", source="test",
)  # fmt: skip
GREY = (128, 128, 128)


@pytest.fixture(scope="module")
def result():
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return evaluate(
        {"sum@net": lambda x: x.flatten(1).sum(1)}, id=x[:2], ood={"far": x[2:]}, threats=[LIMITS], seed=0
    ).results[0]


def images(k: int, channels: int = 1, size: int = 32, seed: int = 1) -> torch.Tensor:
    return torch.rand(k, channels, size, size, generator=torch.Generator().manual_seed(seed))


def sheet(result, start, x_adv, *, mape=None, side="ood", reference=None):
    k = len(start)
    shown = Shown(
        result,
        reference=images(k, start.shape[1], start.shape[2], seed=2) if reference is None else reference,
        start=start,
        x_adv=x_adv,
        reference_scores=torch.linspace(2, 3, k),
        start_scores=torch.linspace(1, 2, k),
        x_adv_scores=torch.linspace(0, 1, k),
        mape=mape,
        side=side,
    )
    return contact_sheet(shown)


def tile(sheet, row: int, column: int) -> np.ndarray:
    left, top = LEFT + column * (TILE + GAP), TOP + row * (TILE + GAP)
    return np.asarray(sheet.crop((left, top, left + TILE, top + TILE)))


@pytest.mark.parametrize("k", [1, 4, 8])
@pytest.mark.parametrize("mape", [None, "some"])
def test_size(result, k, mape):
    start = images(k)
    found = sheet(result, start, start, mape=mape and torch.rand(k))
    assert found.mode == "RGB"
    assert found.size == (LEFT + max(k, 4) * (TILE + GAP) + GAP, TOP + 4 * (TILE + GAP) + BOTTOM)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_unchanged_and_in_place(result, channels):
    start, x_adv, reference = (images(5, channels, seed=seed) for seed in (1, 3, 4))
    found = sheet(result, start, x_adv, reference=reference)
    scale = TILE // 32  # each pixel becomes a square
    for row, pictures in enumerate((reference, start, x_adv)):
        for column, image in enumerate(pictures):
            pixels = (image * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0).numpy()
            expected = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
            assert np.array_equal(tile(found, row, column), expected), (row, column)


def test_no_difference_is_mid_grey(result):
    start = images(2)
    found = sheet(result, start, start)
    for column in range(2):
        assert (tile(found, 3, column) == GREY).all()


def test_the_largest_difference_is_black_or_white(result):
    start = torch.full((2, 1, 32, 32), 0.5)
    x_adv = start.clone()
    x_adv[0, 0, 0, 0] += 0.02
    x_adv[1, 0, 0, 0] -= 0.01
    found = sheet(result, start, x_adv)
    assert (tile(found, 3, 0)[0, 0] == 255).all()
    assert (tile(found, 3, 1)[0, 0] == 64).all()  # half of the largest: 0.5 - 0.25, one scale for all
    assert (tile(found, 3, 0)[-1, -1] == GREY).all()


def test_same_input_same_bytes(result):
    def written() -> bytes:
        out = io.BytesIO()
        sheet(
            result, images(3), images(3, seed=5), mape=torch.rand(3, generator=torch.Generator().manual_seed(0))
        ).save(out, format="PNG")
        return out.getvalue()

    assert written() == written()


def test_title_and_rows_are_written(result):
    start = images(4)
    blank = np.asarray(sheet(result, start, start))
    assert (blank[:TOP] < 128).any()  # ink in the title
    assert (blank[-BOTTOM:] < 128).any()  # and below
    for row in range(4):
        top = TOP + row * (TILE + GAP)
        assert (blank[top : top + TILE, : LEFT - 4] < 128).any()
        rows_of_ink = (blank[top : top + TILE, : LEFT - 4] < 128).any(axis=(1, 2)).nonzero()[0]
        assert abs(rows_of_ink.mean() - TILE / 2) < 4  # in the middle of its tile
    id_side = np.asarray(sheet(result, start, start, side="id"))
    matched = np.asarray(sheet(result, start, start, mape=torch.rand(4)))
    assert not np.array_equal(blank, id_side)
    assert not np.array_equal(blank, matched)


@pytest.mark.parametrize("size", [8, 96, 200])
def test_pictures_of_any_size_fill_a_tile(size):
    assert picture(torch.full((3, size, size), 0.25)).size == (TILE, TILE)
    assert np.asarray(picture(torch.full((1, size, size), 0.25))).max() == 64


def test_sheet_path(result, tmp_path):
    assert sheet_path(result, tmp_path) == tmp_path / "sheets" / "far" / "t" / "sum@net.png"
    odd = result.model_copy(update={"ood": "npz:../a b.npz", "detector": "..", "network": ""})
    path = sheet_path(odd, tmp_path)
    assert path.resolve().is_relative_to(tmp_path / "sheets")
    assert path.parent.parent.name.endswith("-npz-..-a-b.npz") and path.name.endswith("--.png")
    plain = result.model_copy(update={"ood": "npz:ood.npz"})
    assert sheet_path(plain, tmp_path).parent.parent.name == "npz~ood.npz"
    other = result.model_copy(update={"ood": "npz:..-a b.npz"})
    assert sheet_path(other, tmp_path).parent != path.parent  # both would be npz-..-a-b.npz


def test_sheet_path_of_a_very_long_name_can_be_written(result, tmp_path):
    names = [f"npz:{'deep/' * 100}a.npz", f"npz:{'deep/' * 100}b.npz", f"npz:{'deep/' * 101}a.npz", "é" * 300]
    long = [result.model_copy(update={"ood": name}) for name in names]
    paths = [sheet_path(r, tmp_path) for r in long]
    assert len(set(paths)) == len(paths)
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
