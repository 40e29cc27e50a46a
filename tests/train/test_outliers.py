"""Which auxiliary images a step sees: each sampler within the loop, and POEM's boundary over epochs."""

import pytest
import torch
from torch import nn

from oodattack import objectives
from oodattack.objectives import OBJECTIVES, SAMPLERS, free_energy
from oodattack.train import RECIPES, TrainingSet, fit
from oodattack.train import outliers as room
from oodattack.train.outliers import chooser, look


class Brightness(nn.Module):
    """Logits (b, 0, 0) + c with b the brightness: the energy falls as b rises."""

    def __init__(self, outputs: int = 3):
        super().__init__()
        self.head = nn.Linear(1, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.head.weight.data[0] = 1.0

    def forward(self, x):
        return self.head(x.flatten(1).mean(1, keepdim=True))


@pytest.fixture
def levels() -> TrainingSet:
    """Ten ID images; 40 outliers of brightness 0/40, 1/40, ..."""
    aux = (torch.arange(40.0) / 40).view(40, 1, 1, 1).expand(40, 1, 8, 8)
    return TrainingSet(torch.rand(10, 1, 8, 8), torch.arange(10) % 3, aux)


def chosen(recipe, data, network, *, steps, epochs=1, seed=0):
    choose = chooser(recipe, data, steps=steps, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    return [[choose(network, epoch, step, generator) for step in range(steps)] for epoch in range(epochs)]


def test_greg_plus_considers_every_outlier_in_an_epoch_and_takes_two_a_cluster(tiny, data, brief, monkeypatch):
    pools, real = [], objectives.epoch_pools

    def spy(*args, **options):
        found = real(*args, **options)
        pools.append(found)
        return found

    monkeypatch.setattr(objectives, "epoch_pools", spy)
    clusters, choose = [], objectives.samplers.choose
    monkeypatch.setattr(
        objectives.samplers, "choose", lambda *a, **kw: clusters.append(kw["clusters"]) or choose(*a, **kw)
    )
    network = tiny()
    recipe = brief("greg+", batch_size=2)
    (batches,) = chosen(recipe, data, network, steps=3)
    assert [len(rows) for rows in batches] == [4, 4, 4]  # two from each of 2 clusters
    assert clusters == [2, 2, 2]
    assert torch.cat(pools[0]).sort().values.tolist() == list(range(30))
    assert all(set(rows.tolist()) <= set(pool.tolist()) for rows, pool in zip(batches, pools[0], strict=True))
    assert network.training


def test_pools_are_partitioned_anew_each_epoch_and_seed(tiny, data, brief):
    recipe = brief("energy", batch_size=2, sampler="greedy")
    first, second = chosen(recipe, data, tiny(), steps=3, epochs=2)
    ((other, _, _),) = chosen(recipe, data, tiny(), steps=3, seed=1)
    assert len({tuple(rows.tolist()) for rows in (first[0], second[0], other)}) == 3


def test_greedy_takes_the_brightest(levels, brief):
    # the lowest energies of the pool, which with one step is everything
    ((rows,),) = chosen(brief("energy", batch_size=8, sampler="greedy"), levels, Brightness(), steps=1)
    assert sorted(rows.tolist()) == list(range(32, 40))


def test_energy_takes_both_ends(levels, brief):
    ((rows,),) = chosen(brief("energy", batch_size=4, sampler="energy", outliers=2), levels, Brightness(), steps=1)
    assert sorted(rows.tolist()) == [0, 1, 2, 3, 36, 37, 38, 39]


def test_random_takes_repeats_from_everything(levels, brief):
    ((rows,),) = chosen(brief("energy", batch_size=500), levels, Brightness(), steps=1)
    assert len(rows) == 500 and set(rows.tolist()) == set(range(40))


class Halves(nn.Module):
    """Features: brightness of the left and of the right half; the outlier class has the logit of their sum."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 4)
        nn.init.zeros_(self.head.weight)
        self.head.weight.data[3] = 9.0

    def forward(self, x):
        return self.head(x.flatten(1, 2).unflatten(2, (2, 4)).mean((1, 3)))


def test_dos_takes_the_least_probable_of_each_cluster(levels, brief):
    # ten images bright on the left, ten on the right, as unit vectors two clusters: the dimmest of each, 3 and 17
    aux = torch.zeros(20, 1, 8, 8)
    light = torch.rand(20, generator=torch.Generator().manual_seed(0)) / 2 + 0.5
    light[3], light[17] = 0.3, 0.4
    aux[:10, :, :, :4], aux[10:, :, :, 4:] = light[:10].view(-1, 1, 1, 1), light[10:].view(-1, 1, 1, 1)
    ((rows,),) = chosen(brief("dos", batch_size=2), levels._replace(aux=aux), Halves(), steps=1)
    assert sorted(rows.tolist()) == [3, 17]


def test_samplers_by_energy_do_not_see_the_outlier_class(levels, brief):
    # the outlier class alone depends on the image; without it all energies are equal and the first rows are taken
    network = Brightness(4)
    network.head.weight.data[0], network.head.weight.data[3] = 0.0, 5.0
    ((rows,),) = chosen(brief("dos", batch_size=4, sampler="greedy"), levels, network, steps=1)
    pool = objectives.epoch_pools(40, 1, seed=0, least=8)[0]
    assert sorted(rows.tolist()) == sorted(pool[:4].tolist())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("objective", [name for name in RECIPES if OBJECTIVES[name].needs_aux])
def test_every_sampler_serves_every_objective(objective, sampler, tiny, data, brief, monkeypatch):
    if sampler == "dos" and not OBJECTIVES[objective].extra_classes:
        with pytest.raises(ValueError, match=r"`sampler` must be another than dos for .*, got 'dos'"):
            fit(tiny(), brief(objective, sampler=sampler), data, seed=0)
        return
    asked, row = [], SAMPLERS[sampler]
    spied = row._replace(sample=lambda pool, n, seed: asked.append(n) or row.sample(pool, n, seed))
    monkeypatch.setitem(SAMPLERS, sampler, spied)
    recipe = brief(objective, sampler=sampler, outliers=2, epochs=1)
    network = tiny(recipe)
    fit(network, recipe, data, seed=0)
    assert asked == ([] if sampler == "random" else [16, 16, 16])  # in each of three steps
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_looking_is_in_eval_mode_and_leaves_no_trace(tiny, data, monkeypatch):
    network = tiny()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    monkeypatch.setattr(room, "CHUNK", 4)
    pool = look(network, data.aux, torch.tensor([3, 1, 2, 0, 7]))
    assert network.training
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())
    with torch.no_grad():
        expected = network.eval()(data.aux[[3, 1, 2, 0, 7]])
    torch.testing.assert_close(pool.logits, expected)
    assert pool.features.shape == (5, 16)
    torch.testing.assert_close(free_energy(pool.logits), -expected.logsumexp(1))


# --- POEM ---


def test_poem_uses_each_row_of_an_epoch_once_and_remembers_four(tiny, data, brief):
    recipe = brief("poem", batch_size=4)
    choose = chooser(recipe, data, steps=3, seed=0)
    network, generator = tiny(), torch.Generator().manual_seed(0)
    epochs = []
    for epoch in range(6):
        rows = torch.cat([choose(network, epoch, step, generator) for step in range(3)])
        assert len(set(rows.tolist())) == 12
        epochs.append(set(rows.tolist()))
    assert len(set(map(frozenset, epochs))) > 1  # a new draw each epoch
    assert [set(past.tolist()) for past in choose.past] == epochs[-4:]


def test_poem_takes_the_candidates_nearest_to_its_boundary(tiny, data, brief, monkeypatch):
    recipe, network = brief("poem", batch_size=4), tiny()
    weights = torch.linspace(-1, 1, 16)
    monkeypatch.setattr(objectives, "sample_weights", lambda *_: weights)
    choose = chooser(recipe, data, steps=1, seed=0)
    rows = choose(network, 0, 0, torch.Generator().manual_seed(0))
    features = look(network, data.aux, torch.arange(30)).features
    nearest = (features @ weights).abs().argsort()[:4]
    assert set(rows.tolist()) == set(nearest.tolist())


def test_poem_starts_from_the_prior_and_then_knows_both_sets(tiny, data, brief, monkeypatch):
    """From the second epoch on the regression sees ID features and those of earlier outliers, as many times."""
    calls = []

    def spy(features_id, features_aux, **options):
        calls.append((len(features_id), len(features_aux), options["target"]))
        return objectives.weight_prior(features_id, prior_variance=1.0)

    monkeypatch.setattr(objectives, "fit_posterior", spy)
    chosen(brief("poem", batch_size=4), data, tiny(), steps=2, epochs=6)
    assert calls == [(22 * n, 8 * n, 3.0) for n in (1, 2, 3, 4, 4)]


def test_poem_with_few_outliers_takes_the_nearer_half_and_goes_round(tiny, data, brief, monkeypatch):
    """Five for sixteen: two of them, as many as leave two candidates for each; with a single one, that."""
    recipe, network, few = brief("poem", batch_size=8), tiny(), data.aux[:5]
    weights = torch.linspace(-1, 1, 16)
    monkeypatch.setattr(objectives, "sample_weights", lambda *_: weights)
    nearest = (look(network, few, torch.arange(5)).features @ weights).abs().argsort()[:2]
    (batches,) = chosen(recipe, data._replace(aux=few), network, steps=2)
    assert all(rows.bincount(minlength=5)[nearest].tolist() == [4, 4] for rows in batches)
    (batches,) = chosen(recipe, data._replace(aux=few[:1]), network, steps=2)
    assert all(rows.tolist() == [0] * 8 for rows in batches)
