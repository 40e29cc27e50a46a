"""Data sets that are there without any download: scikit-learn's digits and photographs, and what is drawn."""

from typing import Any

import torch

from oodattack.data.checkerboards import checkerboards
from oodattack.data.dataset import AFRESH, CHANNELS, DRAWN, SIZE, Dataset, Opened, Request, drawn, opened
from oodattack.data.digits import SHARES, SOURCE, digits, digits_6_9
from oodattack.data.far_mix import far_mix
from oodattack.data.gather import Pictures, unread
from oodattack.data.noise import gaussian_noise, noise
from oodattack.data.photos import photos
from oodattack.data.rows import row_generator
from oodattack.data.spirals import spirals


def fake(ask: Request) -> Opened:
    """torchvision's FakeData, ten classes; row r depends on (seed, r) only.

    Its values are normal numbers times 255, of which only the lowest eight bits are kept.
    """
    from torchvision.datasets import FakeData

    n, channels, size = ask.samples or DRAWN, ask.channels or CHANNELS, ask.size or SIZE

    def read(number: int) -> tuple[Any, int]:
        start = int(torch.randint(2**31, (), generator=row_generator(ask.seed, "fake-data", number)))
        return FakeData(1, (channels, size, size), random_offset=start)[0]  # type: ignore[no-any-return]

    return unread(Pictures("fake-data", "torchvision FakeData", n, read))


def look(ask: Request) -> dict[str, int]:
    """The format asked for, or the usual one."""
    return {"channels": ask.channels or CHANNELS, "size": ask.size or SIZE}


EMBEDDED: dict[str, Dataset] = {
    "digits": Dataset(
        "digits",
        SOURCE,
        "handwritten digits 0-5, 1083 in three parts; in-distribution",
        lambda ask: opened(digits(ask.part, **look(ask))),
        parts=tuple(SHARES),
    ),
    "digits-6-9": Dataset(
        "digits-6-9", SOURCE, "handwritten digits 6-9, 714; near OOD", lambda ask: opened(digits_6_9(**look(ask)))
    ),
    "photos": drawn("photos", "scikit-learn load_sample_images", "patches of two photographs; far OOD", photos),
    "noise": drawn("noise", "generated", "uniform noise in every pixel; far OOD", noise),
    "spirals": drawn("spirals", "generated", "colour and grey spirals, half each; far OOD", spirals),
    "checkerboards": drawn("checkerboards", "generated", "2 x 2 and 8 x 8 cells, half each; far OOD", checkerboards),
    "far-mix": drawn("far-mix", "the four before", "photos, noise, spirals, checkerboards, a quarter each", far_mix),
    "gaussian-noise": drawn(
        "gaussian-noise", "generated", "noise from N(1/2, 1), cut to [0, 1], in every pixel; far OOD", gaussian_noise
    ),
    "fake-data": Dataset(
        "fake-data", "torchvision FakeData", f"random pixels with random labels 0-9; {AFRESH}", fake, afresh=True
    ),
}
