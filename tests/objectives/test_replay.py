import pytest
import torch

from oodattack.objectives.replay import langevin_samples, replay_state, restore_replay, start_replay

LIKE = torch.zeros(1, 1, 2, 3, dtype=torch.float64)
CHAIN = {"steps": 2, "step_size": 0.1, "noise": 0.05, "restart": 0.3}


def normal(x):
    return -x.flatten(1).square().sum(dim=1) / 2


def still(x):
    """A density whose chains do not move, but for noise."""
    return 0 * x.flatten(1).sum(dim=1)


def test_a_fresh_buffer_is_uniform_noise():
    images = start_replay(2000, LIKE, seed=0).images
    assert images.shape == (2000, 1, 2, 3) and images.dtype == LIKE.dtype
    assert images.min() >= 0 and images.max() < 1
    assert images.mean().item() == pytest.approx(0.5, abs=0.02)
    assert images.var().item() == pytest.approx(1 / 12, rel=0.05)
    assert not torch.equal(images, start_replay(2000, LIKE, seed=1).images)


def test_chains_without_restarts_go_on_in_the_buffer():
    replay = start_replay(8, LIKE, seed=0)
    before = replay.images.clone()
    found = langevin_samples(normal, replay, 3, **CHAIN | {"noise": 0.0, "restart": 0.0})
    changed = (replay.images != before).flatten(1).any(dim=1)
    assert changed.sum() == 3
    torch.testing.assert_close(replay.images[changed], before[changed] * 0.9**2)  # two steps of 1 - 0.1
    assert torch.equal(found.flatten(1).sum(1).sort().values, replay.images[changed].flatten(1).sum(1).sort().values)


def test_with_certain_restarts_nothing_of_the_buffer_is_used():
    replay = start_replay(6, LIKE, seed=0)
    replay.images.fill_(7.0)
    found = langevin_samples(still, replay, 6, **CHAIN | {"noise": 0.0, "restart": 1.0})
    assert found.min() >= 0 and found.max() < 1
    assert torch.equal(found.flatten().sort().values, replay.images.flatten().sort().values)


def test_restarts_are_as_frequent_as_asked_for():
    replay = start_replay(5000, LIKE, seed=0)
    replay.images.fill_(7.0)
    found = langevin_samples(still, replay, 5000, **CHAIN | {"noise": 0.0, "restart": 0.05})
    share = (found[:, 0, 0, 0] < 1).double().mean().item()
    assert share == pytest.approx(0.05, abs=5 * (0.05 * 0.95 / 5000) ** 0.5)


def test_goes_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path):
    replay = start_replay(10, LIKE, seed=3)
    langevin_samples(normal, replay, 4, **CHAIN)
    torch.save(replay_state(replay), tmp_path / "replay.pt")
    ahead = [langevin_samples(normal, replay, 4, **CHAIN) for _ in range(3)]
    restored = restore_replay(torch.load(tmp_path / "replay.pt", weights_only=True))
    again = [langevin_samples(normal, restored, 4, **CHAIN) for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(ahead, again, strict=True))
    assert torch.equal(replay.images, restored.images)


def test_a_checkpoint_is_a_copy():
    replay = start_replay(4, LIKE, seed=0)
    state = replay_state(replay)
    kept = state["images"].clone()
    langevin_samples(normal, replay, 4, **CHAIN)
    assert torch.equal(state["images"], kept) and not torch.equal(replay.images, kept)
    restored = restore_replay(state)
    langevin_samples(normal, restored, 4, **CHAIN)
    assert torch.equal(state["images"], kept)


def test_diverging_chains_do_not_spoil_the_buffer():
    replay = start_replay(4, LIKE, seed=0)
    before = replay.images.clone()
    with pytest.raises(FloatingPointError, match="chains must stay finite, got 3 of 3 that did not"):
        langevin_samples(lambda x: -normal(x), replay, 3, steps=4, step_size=1e200, noise=0.0, restart=0.0)
    assert torch.equal(replay.images, before)


@pytest.mark.parametrize(
    ("n", "change", "message"),
    [
        (0, {}, r"`n` must be in 1\.\.4, the size of the buffer, got 0"),
        (5, {}, r"`n` must be in 1\.\.4, the size of the buffer, got 5"),
        (2, {"restart": 1.5}, r"`restart` must be in \[0, 1\], got 1.5"),
        (2, {"steps": 0}, "`steps` must be >= 1"),
    ],
)
def test_wrong_use_is_named(n, change, message):
    with pytest.raises(ValueError, match=message):
        langevin_samples(normal, start_replay(4, LIKE, seed=0), n, **CHAIN | change)


def test_wrong_buffers_are_named():
    with pytest.raises(ValueError, match="`size` must be >= 1, got 0"):
        start_replay(0, LIKE, seed=0)
    with pytest.raises(ValueError, match=r"got no \['generator'\]"):
        restore_replay({"images": LIKE})
