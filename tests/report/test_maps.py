"""Saliency maps on the report's page: colours and words by hand, and from a finished run."""

import io
import re
import sys

import pytest
import torch
from PIL import Image
from small_run import RUN, fill
from torch import nn

from oodattack.classifier import Classifier
from oodattack.detectors import SalAgg
from oodattack.gallery.maps import maps_of, on_image
from oodattack.gallery.run_page import write_page
from oodattack.gallery.saved import saved
from oodattack.report.page_maps import RAMP, TOP, Maps, coloured, maps_png, maps_words, peak
from oodattack.report.sheet import GAP, LEFT, TILE


def maps(before, after) -> Maps:
    """Of two grey images."""
    x = torch.full((2, 1, 4, 4), 0.5)
    return Maps("test maps", x, before, torch.tensor([1.0, 2.0]), x, after, torch.tensor([3.0, 4.0]))


def corner(value: float) -> torch.Tensor:
    """Maps 3 x 3 that are 0 but for their first place."""
    found = torch.zeros(2, 3, 3)
    found[:, 0, 0] = value
    return found


def pixel(png: bytes, row: int, column: int, y: int, x: int) -> tuple[int, ...]:
    """Of a tile, at thirds of it."""
    with Image.open(io.BytesIO(png)) as sheet:
        place = (LEFT + column * (TILE + GAP) + x * TILE // 3 + 9, TOP + row * (TILE + GAP) + y * TILE // 3 + 9)
        return sheet.getpixel(place)


def test_the_ramp():
    tile = coloured(torch.tensor([[0.0, 0.25], [0.5, 1.0]]))
    middle = tuple(round((a + b) / 2) for a, b in zip(RAMP[0], RAMP[1], strict=True))
    assert tile.size == (TILE, TILE)
    assert [tile.getpixel(at) for at in ((5, 5), (90, 5), (5, 90), (90, 90))] == [RAMP[0], middle, RAMP[1], RAMP[2]]


def test_lightness_rises_so_that_no_colour_is_needed():
    tile = coloured(torch.linspace(0, 1, TILE).expand(1, TILE)).convert("L")
    greys = [tile.getpixel((x, 0)) for x in range(TILE)]
    assert greys == sorted(greys) and greys[-1] - greys[0] > 150


def test_all_maps_share_a_scale_and_signs_do_not_matter():
    png = maps_png(maps(corner(1.0), corner(-2.0)))
    assert pixel(png, 1, 0, 0, 0) == RAMP[1]  # half of the largest
    assert pixel(png, 3, 1, 0, 0) == RAMP[2]
    assert pixel(png, 3, 1, 2, 2) == RAMP[0]
    assert pixel(png, 0, 0, 1, 1) == (128, 128, 128)  # the image itself
    assert maps_png(maps(corner(1.0), corner(-2.0))) == png


def test_maps_of_zeros_can_be_drawn():
    png = maps_png(maps(corner(0.0), corner(0.0)))
    assert pixel(png, 3, 0, 1, 1) == RAMP[0]


def test_the_words():
    moved = corner(3.0).flip(1, 2)
    moved[1] = corner(3.0)[1]
    assert maps_words(maps(corner(2.0), moved)) == (
        "test maps of 2 images, before and after the attack. The norm of the map is 1.5 times what it was, in the "
        "median; its largest value moved to another ninth of the image in 1 of 2."
    )


@pytest.mark.parametrize(
    ("size", "place", "ninth"), [((3, 3), (0, 0), (0, 0)), ((6, 9), (5, 4), (2, 1)), ((1, 1), (0, 0), (0, 0))]
)
def test_ninths(size, place, ninth):
    values = torch.zeros(size)
    values[place] = 1
    assert peak(values) == ninth


def test_a_flat_map_gets_its_shape():
    x = torch.zeros(2, 3, 8, 4)
    coarse = torch.arange(16.0).view(2, 8)
    assert torch.equal(on_image(coarse, x), coarse.view(2, 4, 2))  # twice as high as wide
    assert on_image(torch.zeros(2, 32), x).shape == (2, 8, 4)
    channels = torch.zeros(2, 96)
    channels[:, 0], channels[:, 32] = 3, 4  # the first place of two channels
    assert on_image(channels, x)[0, 0, 0].item() == pytest.approx(5)
    assert on_image(torch.zeros(2, 7), torch.zeros(2, 1, 8, 8)) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished small run; read only."""
    from oodattack.cli import main

    folder = tmp_path_factory.mktemp("finished")
    fill(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [entry for entry in sys.path if entry])
        patch.setattr(sys, "dont_write_bytecode", True)
        assert main(RUN) == 0
    sys.modules.pop("mine", None)
    return saved(folder / "out")


@pytest.fixture(scope="module")
def salient():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    return SalAgg(Classifier(network), method="guided-backprop", aggregate="norm", sign=1)


def test_maps_are_those_of_the_images_of_the_run(run, salient):
    found = maps_of(run, {"mine:bright": salient, "energy@model": lambda x: x})
    assert {name[0] for name in found} == {"mine:bright"}  # no other detector aggregates maps
    for (_, threat, _), m in found.items():
        assert m.method == "guided-backprop maps"
        assert m.start.shape == m.x_adv.shape == (len(m.start), 1, 8, 8)
        assert torch.allclose(m.start_maps.flatten(1), salient.map(m.start).abs(), atol=1e-6)
        assert torch.allclose(m.x_adv_maps.flatten(1), salient.map(m.x_adv).abs(), atol=1e-6)
        assert torch.allclose(m.x_adv.flatten(1).mean(1), m.x_adv_scores, atol=1e-5), threat  # of `bright`
    assert maps_of(run) == {}


def test_the_page_shows_them(run, salient):
    assert "Saliency maps" not in (run.folder / "report.html").read_text()
    text = write_page(run.folder, {"mine:bright": salient}).read_text()
    pictures = re.findall(r'<figcaption>Saliency maps, row by row: ([^<]*)</figcaption><img [^>]*alt="([^"]*)"', text)
    assert len(pictures) == sum(r.detector == "mine:bright" for r in run.report.results)
    assert all(caption == alternative and "norm of the map" in caption for caption, alternative in pictures)
