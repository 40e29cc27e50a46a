import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodattack.objectives.energy_sampling import choose, epoch_pools

DOUBLE = torch.float64


def along(axes, lengths):
    """Rows that point along the given axes of a space of 3 dimensions."""
    return torch.eye(3, dtype=DOUBLE)[axes] * torch.tensor(lengths, dtype=DOUBLE)[:, None]


def pool(seed=0, *, n=40, d=5):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=draw, dtype=DOUBLE), torch.randn(n, generator=draw, dtype=DOUBLE)


def test_lowest_and_highest_energy_of_hand_made_clusters():
    # clusters are directions, whatever the length: K-means without normalisation would part long from short
    features = along([0, 1, 2, 0, 1, 2, 0, 1, 2], [1, 1, 1, 100, 100, 100, 40, 40, 40])
    energies = torch.tensor([5.0, -3.0, 0.0, 1.0, -2.0, 9.0, 3.0, -1.0, 4.0], dtype=DOUBLE)
    # direction 0: rows 0, 3, 6 with energies 5, 1, 3 -> 3 and 0; direction 1: 1, 4, 7 with -3, -2, -1 -> 1 and 7;
    # direction 2: 2, 5, 8 with 0, 9, 4 -> 2 and 5
    assert choose(features, energies, clusters=3, seed=0).tolist() == [0, 1, 2, 3, 5, 7]


def test_ties_still_give_two_rows_a_cluster():
    features = along([0, 0, 0, 1, 1, 1], [1, 2, 3, 1, 2, 3])
    assert choose(features, torch.zeros(6, dtype=DOUBLE), clusters=2, seed=0).tolist() == [0, 2, 3, 5]


def test_a_cluster_of_one_is_made_up_for_at_random():
    features = along([0, 0, 0, 0, 1], [1, 2, 3, 4, 1])
    energies = torch.tensor([2.0, 1.0, 4.0, 3.0, 0.0], dtype=DOUBLE)
    # rows 1 (lowest), 2 (highest) and 4 (alone), and one of 0 and 3
    found = {tuple(choose(features, energies, clusters=2, seed=seed).tolist()) for seed in range(12)}
    assert found == {(0, 1, 2, 4), (1, 2, 3, 4)}


def test_repeated_points_fill_up_without_a_warning():
    features = torch.ones(10, 4, dtype=DOUBLE)
    energies = torch.arange(10, dtype=DOUBLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = choose(features, energies, clusters=3, seed=0)
    assert len(found.unique()) == 6
    assert {0, 9} <= set(found.tolist())


@given(seed=st.integers(0, 2**16), clusters=st.integers(1, 10), spare=st.integers(0, 20))
@settings(max_examples=10, deadline=None)
def test_indices_are_ascending_unique_and_twice_the_clusters(seed, clusters, spare):
    features, energies = pool(seed, n=2 * clusters + spare)
    found = choose(features, energies, clusters=clusters, seed=seed)
    assert found.dtype == torch.int64
    assert len(found) == 2 * clusters
    assert (found.diff() > 0).all()
    assert 0 <= found[0] and found[-1] < len(energies)
    assert torch.equal(found, choose(features, energies, clusters=clusters, seed=seed))
    assert {int(energies.argmin()), int(energies.argmax())} <= set(found.tolist())  # extremes of some cluster


def test_training_graph_and_global_randomness_are_left_alone():
    features, energies = pool()
    state = torch.random.get_rng_state()
    choose(features.requires_grad_(), energies.requires_grad_(), clusters=4, seed=0)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"clusters": 21}, ValueError, r"at least 2 \* clusters = 42 rows, got 40"),
        ({"clusters": 0}, ValueError, "`clusters` must be >= 1, got 0"),
        ({"seed": -1}, ValueError, r"`seed` must be in 0\.\.2\*\*32 - 1, got -1"),
        ({"features": torch.zeros(40, 2, 2)}, ValueError, r"`features` must have shape \(N, D\)"),
        ({"energies": torch.zeros(39)}, ValueError, r"`energies` must have shape \(40,\), got \(39,\)"),
        ({"features": torch.full((40, 5), torch.nan)}, FloatingPointError, "`features` must be finite, got 200 of 200"),
        ({"energies": torch.full((40,), torch.inf)}, FloatingPointError, "`energies` must be finite, got 40 of 40"),
    ],
)
def test_wrong_use_is_named(change, error, message):
    features, energies = pool()
    with pytest.raises(error, match=message):
        choose(**{"features": features, "energies": energies, "clusters": 4, "seed": 0} | change)


@given(seed=st.integers(0, 2**32), batches=st.integers(1, 30), spare=st.integers(0, 200))
@settings(max_examples=50, deadline=None)
def test_pools_are_a_partition_in_equal_parts(seed, batches, spare):
    n = batches + spare
    pools = epoch_pools(n, batches, seed=seed)
    lengths = {len(pool) for pool in pools}
    assert len(pools) == batches
    assert max(lengths) - min(lengths) <= 1
    assert torch.cat(pools).sort().values.tolist() == list(range(n))  # all of it, nothing twice


@given(seed=st.integers(0, 2**32), batches=st.integers(1, 30), least=st.integers(1, 9), spare=st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_pools_have_what_a_step_needs(seed, batches, least, spare):
    n = least + spare
    pools = epoch_pools(n, batches, seed=seed, least=least)
    assert len(pools) == batches
    assert all(least <= len(pool) == len(set(pool.tolist())) for pool in pools)
    rounds = n // least  # pools that one partition has room for
    seen = set(torch.cat(pools[:rounds]).tolist())
    assert len(seen) == sum(map(len, pools[:rounds]))  # nothing twice before everything once
    assert batches < rounds or len(seen) == n


def test_pools_change_with_the_seed_only():
    first, again, other = (epoch_pools(100, 3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.cat(first), torch.cat(again))
    assert not torch.equal(torch.cat(first), torch.cat(other))
    assert torch.cat(first).tolist() != list(range(100))


@pytest.mark.parametrize(
    ("n", "batches", "message"),
    [(10, 0, "`batches` must be >= 1, got 0"), (3, 4, "`n_aux` must be >= `least`, got 3 samples for pools of 4")],
)
def test_wrong_numbers_of_pools_are_named(n, batches, message):
    with pytest.raises(ValueError, match=message):
        epoch_pools(n, batches, seed=0, least=4)
