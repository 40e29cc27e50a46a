import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodattack.objectives.energy_sampling import choose
from oodattack.objectives.outlier_class import outlier_probability
from oodattack.objectives.samplers import SAMPLERS, Pool

DOUBLE = torch.float64


def drawn(n=40, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return Pool(torch.randn(n, 5, generator=draw, dtype=DOUBLE), torch.randn(n, 4, generator=draw, dtype=DOUBLE))


def with_energies(energies):
    """One logit of minus the energy beside one that is out of the race."""
    energies = torch.tensor(energies, dtype=DOUBLE)
    return Pool(
        torch.ones(len(energies), 2, dtype=DOUBLE), torch.stack([-energies, torch.full_like(energies, -1e3)], 1)
    )


def sample(name, pool, n, seed=0):
    return SAMPLERS[name].sample(pool, n, seed)


def test_table_of_samplers():
    assert list(SAMPLERS) == ["random", "greedy", "dos", "energy", "greg+"]
    assert all(name == row.name and row.source and row.description for name, row in SAMPLERS.items())


def test_by_energy_by_hand():
    pool = with_energies([3.0, -2, 5, 0, -7, 1])
    assert sample("greedy", pool, 3).tolist() == [1, 3, 4]  # -2, 0, -7
    assert sample("energy", pool, 2).tolist() == [2, 4]  # -7 and 5
    assert sample("energy", pool, 3).tolist() == [1, 2, 4]  # -7, -2 and 5
    assert sample("energy", pool, 1).tolist() == [4]


def test_ties_in_energy_go_to_the_lower_index():
    assert sample("greedy", with_energies([0.0] * 6), 3).tolist() == [0, 1, 2]


def test_greg_plus_is_choose_with_two_rows_a_cluster():
    pool = drawn()
    expected = choose(pool.features, -pool.logits.logsumexp(dim=1), clusters=5, seed=3)
    assert torch.equal(sample("greg+", pool, 10, seed=3), expected)


def test_dos_takes_the_least_outlier_probability_of_each_cluster_by_hand():
    # three directions, whatever the length; log p_K by row
    features = torch.eye(3, dtype=DOUBLE)[[0, 1, 2, 0, 1, 2, 0]] * torch.tensor([1, 1, 1, 50, 50, 50, 9.0])[:, None]
    p = torch.tensor([0.5, 0.2, 0.9, 0.3, 0.1, 0.8, 0.4], dtype=DOUBLE)
    logits = torch.stack([(1 - p) / 2, (1 - p) / 2, p], dim=1).log()
    # direction 0: rows 0, 3, 6 -> 3; direction 1: rows 1, 4 -> 4; direction 2: rows 2, 5 -> 5, though 0.8 is high
    assert sample("dos", Pool(features, logits), 3).tolist() == [3, 4, 5]


def test_dos_tells_apart_probabilities_that_round_to_one():
    logits = torch.tensor([[0.0, 0, 60], [0, 0, 50], [0, 0, 70]])
    assert (outlier_probability(logits) == 1).all()
    assert sample("dos", Pool(torch.ones(3, 2), logits), 1).tolist() == [1]


def test_dos_makes_up_for_empty_clusters():
    found = sample("dos", Pool(torch.ones(6, 2), torch.arange(18.0).view(6, 3)), 4)
    assert len(found.unique()) == 4


def test_random_rows_are_all_equally_likely():
    pool = drawn(n=6)
    counts = torch.zeros(6)
    for seed in range(1500):
        counts[sample("random", pool, 2, seed)] += 1
    assert (counts - 500).abs().max() < 5 * (1500 * 1 / 3 * 2 / 3) ** 0.5


@given(seed=st.integers(0, 2**16), half=st.integers(1, 8), spare=st.integers(0, 20))
@settings(max_examples=8, deadline=None)
def test_contract(seed, half, spare):
    n = 2 * half
    pool = drawn(n + spare, seed)
    state = torch.random.get_rng_state()
    for row in SAMPLERS.values():
        found = row.sample(pool, n, seed)
        assert found.dtype == torch.int64 and found.shape == (n,), row.name
        assert (found.diff() > 0).all() and 0 <= found[0] and found[-1] < n + spare, row.name
        assert torch.equal(found, row.sample(pool, n, seed)), row.name
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_are_indifferent_to_graphs_and_take_everything_if_asked(name):
    pool = Pool(*(t.requires_grad_() for t in drawn(n=8)))
    assert sample(name, pool, 8).tolist() == list(range(8))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("change", "n", "seed", "error", "message"),
    [
        ({}, 41, 0, ValueError, r"`n` must be in 1\.\.40, the size of the pool, got 41"),
        ({}, 0, 0, ValueError, r"`n` must be in 1\.\.40"),
        ({}, 4, -1, ValueError, r"`seed` must be in 0\.\.2\*\*32 - 1, got -1"),
        ({"features": torch.zeros(40)}, 4, 0, ValueError, r"`pool` must have features \(N, D\) and logits \(N, C\)"),
        ({"logits": torch.zeros(39, 3)}, 4, 0, ValueError, r"got \(40, 5\) and \(39, 3\)"),
        ({"logits": torch.full((40, 3), torch.nan)}, 4, 0, FloatingPointError, "`logits` must be finite, got 120 of"),
    ],
)
def test_wrong_use_is_named(name, change, n, seed, error, message):
    with pytest.raises(error, match=message):
        sample(name, drawn()._replace(**change), n, seed)


def test_an_odd_number_for_greg_plus_is_named():
    with pytest.raises(ValueError, match=r"`n` must be even for greg\+, got 5"):
        sample("greg+", drawn(), 5)
