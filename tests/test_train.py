"""Recipes on digits: accuracy, determinism, the cache, and which outliers each objective sees."""

from pathlib import Path

import pytest
import torch

from oodattack import train
from oodattack.data.auxiliary import auxiliary
from oodattack.data.digits import digits
from oodattack.train import RECIPES, Recipe, TrainingSet, fit, outliers, shifted, trained


@pytest.fixture(scope="module")
def data():
    part = digits("train")
    return TrainingSet(part.x, part.y, auxiliary(960, train=part, seed=0))


@pytest.fixture(scope="module")
def held_out():
    part = digits("reference")
    return part.x, part.y


def small(data: TrainingSet) -> TrainingSet:
    return TrainingSet(data.x[:130], data.y[:130], data.aux[:300])


def network(seed: int = 0):
    torch.manual_seed(seed)
    return train.models.build("small", channels=1, classes=6)


def brief(objective: str, **changes) -> Recipe:
    recipe = RECIPES[objective]
    fields = {f: getattr(recipe, f) for f in recipe.__dataclass_fields__} | {"epochs": 1, "batch_size": 16} | changes
    return Recipe(**fields)


@pytest.mark.parametrize("objective", RECIPES)
def test_each_recipe_trains_and_repeats_itself(objective, data):
    states = []
    for _ in range(2):
        net = network()
        before = {k: v.clone() for k, v in net.state_dict().items()}
        fit(net, brief(objective), small(data), seed=3)
        states.append(net.state_dict())
    assert any(not torch.equal(before[k], states[0][k]) for k in before)
    assert all(v.isfinite().all() for v in states[0].values())
    assert all(torch.equal(states[0][k], states[1][k]) for k in before)


@pytest.mark.parametrize("objective", [name for name in RECIPES if name not in ("ce", "energy")])
def test_the_extra_term_reaches_the_weights(objective, data):
    # the same recipe without its own term must end somewhere else: a term without a gradient is caught
    fields = {"weight": 0.0} if objective in ("gq", "oe") else {"penalty": 0.0}
    ends = []
    for recipe in (brief(objective), brief(objective, **fields)):
        net = network()
        fit(net, recipe, small(data), seed=3)
        ends.append(torch.cat([p.flatten() for p in net.parameters()]))
    assert (ends[0] - ends[1]).abs().max() > 1e-6


def test_accuracy_of_a_trained_network_on_held_out_digits(data, held_out, tmp_path):
    done = trained("ce", data, held_out, seed=0, cache=tmp_path)
    assert done.accuracy >= 0.97
    assert not done.network.training
    assert not any(p.requires_grad for p in done.network.parameters())


def test_the_cache_is_used_keyed_and_survives_a_broken_file(data, held_out, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "ce", brief("ce"))
    few = small(data)
    first = trained("ce", few, held_out, seed=0, cache=tmp_path)
    (file,) = (tmp_path / "networks").iterdir()
    calls = []
    monkeypatch.setattr(train, "fit", lambda *args, **kw: calls.append(1) or fit(*args, **kw))
    again = trained("ce", few, held_out, seed=0, cache=tmp_path)
    assert not calls
    assert all(torch.equal(a, b) for a, b in zip(first.network.parameters(), again.network.parameters(), strict=True))
    trained("ce", few, held_out, seed=1, cache=tmp_path)  # another seed is another network
    assert len(calls) == 1 and len(list((tmp_path / "networks").iterdir())) == 2
    file.write_bytes(file.read_bytes()[:100])  # half a file
    trained("ce", few, held_out, seed=0, cache=tmp_path)
    assert len(calls) == 2


def test_an_unwritable_cache_is_named(data, held_out, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "ce", brief("ce"))
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ValueError, match=r"cache folder must be writable.*OODATTACK_CACHE"):
        trained("ce", small(data), held_out, seed=0, cache=Path(blocked))


def test_greg_plus_considers_every_outlier_in_an_epoch_and_takes_two_a_cluster(data, monkeypatch):
    few = TrainingSet(data.x[:48], data.y[:48], data.aux[:150])
    pools = []
    real = train.objectives.epoch_pools
    monkeypatch.setattr(train.objectives, "epoch_pools", lambda *a, **kw: pools.extend(real(*a, **kw)) or pools)
    net = network()
    generator = torch.Generator().manual_seed(0)
    batches = list(outliers(net, brief("greg+"), few, 3, seed=0, epoch=0, generator=generator))
    assert [len(b) for b in batches] == [32, 32, 32]  # two from each of 16 clusters
    assert torch.cat(pools).sort().values.tolist() == list(range(150))
    assert net.training


def test_shifts_move_pixels_and_nothing_else():
    x = torch.zeros(40, 1, 9, 9)
    x[:, :, 4, 4] = 1
    moved = shifted(x, 2, torch.Generator().manual_seed(0))
    places = moved.flatten(1).argmax(dim=1)
    rows, columns = places // 9, places % 9
    assert moved.sum() == 40 and set(rows.tolist()) <= {2, 3, 4, 5, 6}
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) > 10


def test_unknown_objective_is_named(data, held_out, tmp_path):
    with pytest.raises(ValueError, match=r"`objective` must be one of ce, gq.*got 'gregg'"):
        trained("gregg", data, held_out, seed=0, cache=tmp_path)
