"""The grid of ODIN and the choice from it."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from oodattack.classifier import Classifier
from oodattack.detectors.odin_grid import fit_odin, odin_grid
from oodattack.metrics import fpr_at_95_id_tpr
from oodattack.models.small import SmallResNet


@cache
def small():
    torch.manual_seed(0)
    network = SmallResNet(1, 3, width=4).double()
    nn.init.normal_(network.head.weight, 0, 2)
    return Classifier(network.eval())


def images(rows, seed, level=1.0):
    return level * torch.rand(rows, 1, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_grid_of_the_paper():
    grid = odin_grid(small())
    assert list(grid) == [(t, m) for t in (1, 10, 100, 1000) for m in (0, 0.001, 0.002, 0.004)]
    assert all((odin.temperature, odin.magnitude) == pair and odin.net is small() for pair, odin in grid.items())


def test_the_first_with_the_smallest_rate_is_chosen():
    known, strange = images(30, 1), images(30, 2, level=0.5)
    options = {"temperatures": (1000.0, 1.0), "magnitudes": (0.1, 0.0, 0.02)}
    grid = odin_grid(small(), **options)
    rates = {pair: fpr_at_95_id_tpr(odin(known), odin(strange)) for pair, odin in grid.items()}
    assert len(set(rates.values())) > 2  # there is something to choose
    best = [pair for pair, rate in rates.items() if rate == min(rates.values())]
    assert best == [(1000, 0), (1, 0)]  # and a tie, neither of which comes first
    chosen = fit_odin(small(), known, strange, **options, batch_size=7)
    assert (chosen.temperature, chosen.magnitude) == best[0]


def test_ties_go_to_the_first():
    x = images(20, 1)
    chosen = fit_odin(small(), x, x, temperatures=(10.0, 10.0), magnitudes=(0.002, 0.002))
    assert (chosen.temperature, chosen.magnitude) == (10, 0.002)
    same = fit_odin(small(), x[:1], x[:1], temperatures=(10.0, 1.0), magnitudes=(0.002, 0.0))  # rate 1 for all
    assert (same.temperature, same.magnitude) == (10, 0.002)


def test_loaders_will_do():
    known, strange = images(12, 1), images(12, 2, level=0.9)
    options = {"temperatures": (1000.0, 1.0), "magnitudes": (0.0, 0.1)}
    loaders = [DataLoader(TensorDataset(x), batch_size=5) for x in (known, strange)]
    of_loaders, of_tensors = fit_odin(small(), *loaders, **options), fit_odin(small(), known, strange, **options)
    assert (of_loaders.temperature, of_loaders.magnitude) == (of_tensors.temperature, of_tensors.magnitude)


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"`temperatures` and `magnitudes` must have a number each, got none"):
        odin_grid(small(), temperatures=())
    with pytest.raises(ValueError, match=r"`temperature` must be > 0, got 0"):
        odin_grid(small(), temperatures=(0,))
    with pytest.raises(ValueError, match=r"`x` must have images to fit on, got 0"):
        fit_odin(small(), images(3, 1), images(0, 1))
