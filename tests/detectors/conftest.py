"""Detectors by hand: networks whose features are the pixels, so that pixels are what the sums are made of."""

import pytest


@pytest.fixture
def any_pixels(monkeypatch):
    """Images to fit on may have any values but NaN."""
    monkeypatch.setattr("oodattack.detectors.batches.RANGE", (-float("inf"), float("inf")))
