import pytest
import torch

from oodattack.geometry.balls import PROJECT, norm_of
from oodattack.geometry.row_random import ball, row_random, sphere


def streams(rows, *, seed=0, key="k", dtype=torch.float64):
    return row_random(seed, key, rows, "cpu", dtype)


DRAWS = {
    "uniform": lambda r: r.uniform((3, 7)),
    "normal": lambda r: r.normal((3, 7)),
    "integers": lambda r: r.integers(10, (3, 7)),
    **{f"sphere {n}": lambda r, n=n: sphere(r, (3, 7), 0.5, n) for n in PROJECT},
    **{f"ball {n}": lambda r, n=n: ball(r, (3, 7), 0.5, n) for n in PROJECT},
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_row_does_not_see_its_batch(draw):
    together, halves = streams(range(10)), [streams(range(5)), streams(range(5, 10))]
    alone = [streams([row]) for row in range(10)]
    for _ in range(2):  # the second draw goes on where the first one stopped
        all_at_once = draw(together)
        assert torch.equal(all_at_once, torch.cat([draw(r) for r in alone]))
        assert torch.equal(all_at_once, torch.cat([draw(r) for r in halves]))
    assert torch.equal(draw(streams([7, 2])), draw(streams(range(10)))[[7, 2]])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_seed_key_and_row_all_matter(draw):
    first = draw(streams([3]))
    assert torch.equal(first, draw(streams([3])))
    for other in (streams([4]), streams([3], seed=1), streams([3], key="l")):
        assert not torch.equal(first, draw(other))
    both = streams([3])
    assert not torch.equal(draw(both), draw(both))


def test_seed_and_row_are_not_confused():
    spelled_alike = [streams([23], seed=1), streams([3], seed=12), streams([2], seed=1, key="3 k")]
    drawn = torch.cat([r.uniform((4,)) for r in spelled_alike])
    assert len(drawn.unique()) == 12


def test_streams_are_the_same_in_every_version():
    # written down once: a change here changes every start of every run
    assert streams([0, 1]).uniform(()).tolist() == pytest.approx([0.515288233757019, 0.1520429253578186], abs=1e-7)


def test_rows_that_go_on_alone_keep_their_streams():
    all_rows, four = streams(range(4)), streams(range(4))
    torch.testing.assert_close(all_rows.uniform((5,)), four.uniform((5,)))
    two = four.take(torch.tensor([3, 1]))
    assert len(two) == 2
    second = all_rows.normal((5,))
    assert torch.equal(two.normal((5,)), second[[3, 1]])
    # the streams are shared: rows 1 and 3 are one draw ahead now, rows 0 and 2 are not
    assert torch.equal(four.normal((5,))[[0, 2]], second[[0, 2]])
    assert torch.equal(four.uniform((5,))[[0, 2]], all_rows.uniform((5,))[[0, 2]])


def test_a_row_taken_twice_is_named():
    with pytest.raises(ValueError, match=r"`index` must name each row once, got \[0, 0\]"):
        streams(range(2)).take(torch.tensor([0, 0]))


def test_dtypes_hold_the_same_numbers():
    exact = streams(range(3)).uniform((50,))
    for dtype in (torch.float32, torch.bfloat16):
        cast = streams(range(3), dtype=dtype).uniform((50,))
        assert cast.dtype == dtype and torch.equal(cast, exact.to(dtype))
    for draw in (sphere, ball):
        single = draw(streams(range(3), dtype=torch.float32), (50,), 1.0, "l2")
        assert torch.equal(single, draw(streams(range(3)), (50,), 1.0, "l2").float())


def test_ranges_and_means():
    random = streams(range(200))
    uniform, normal, integers = random.uniform((100,)), random.normal((100,)), random.integers(5, (100,))
    assert ((uniform >= 0) & (uniform < 1)).all()
    assert uniform.mean().item() == pytest.approx(0.5, abs=4 / (12 * 20_000) ** 0.5)
    assert normal.mean().item() == pytest.approx(0, abs=4 / 20_000**0.5)
    assert normal.std().item() == pytest.approx(1, abs=0.03)
    assert integers.flatten().bincount().tolist() == pytest.approx([4000] * 5, abs=4 * (20_000 * 0.2 * 0.8) ** 0.5)
    assert random.uniform(()).shape == (200,)


@pytest.mark.parametrize("norm", PROJECT)
@pytest.mark.parametrize("draw", [sphere, ball])
def test_points_lie_in_the_ball_around_zero(norm, draw):
    for dtype in (torch.float64, torch.float32):
        points = draw(streams(range(300), dtype=dtype), (2, 3, 5), 0.7, norm)
        assert points.shape == (300, 2, 3, 5) and points.dtype == dtype
        assert (norm_of(points.double(), norm) <= 0.7 * (1 + 1e-6)).all()
        assert points.mean().abs() < 4 * points.std() / points.numel() ** 0.5


def test_sphere_starts_on_the_surface():
    for norm in ("l2", "l1"):
        size = norm_of(sphere(streams(range(20)), (3, 8, 8), 0.7, norm), norm)
        torch.testing.assert_close(size, torch.full((20,), 0.7, dtype=torch.float64))
    # linf: the noise itself, uniform per pixel
    noise = sphere(streams(range(20)), (3, 8, 8), 0.7, "linf")
    torch.testing.assert_close(noise, 0.7 * (2 * streams(range(20)).uniform((3, 8, 8)) - 1))
    # one dimension: never outside, so never on the surface either
    assert norm_of(sphere(streams(range(20)), (1,), 0.7, "l2"), "l2").max() < 0.7


@pytest.mark.parametrize("norm", PROJECT)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_ball_is_filled_evenly(norm, dimensions):
    # the ball of half the radius holds 2^-D of the volume
    rows = 3000
    size = norm_of(ball(streams(range(rows)), (dimensions,), 0.7, norm), norm)
    share = 0.5**dimensions
    assert (size < 0.35).sum().item() == pytest.approx(rows * share, abs=4 * (rows * share * (1 - share)) ** 0.5)


def test_l1_ball_is_even_over_its_faces_too():
    # in a diamond |x| is triangular with density 2 (1 - |x|): P(|x| < 1/2) = 3/4
    near = (ball(streams(range(3000)), (2,), 1.0, "l1").abs() < 0.5).double().mean(dim=0)
    assert near.tolist() == pytest.approx([0.75, 0.75], abs=4 * (0.1875 / 3000) ** 0.5)


def test_no_rows():
    none = streams([])
    assert len(none) == 0 and none.uniform((3, 4)).shape == (0, 3, 4)
    assert ball(none, (3, 4), 1.0, "l1").shape == sphere(none, (3, 4), 1.0, "l2").shape == (0, 3, 4)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`high` must be >= 1, got 0"):
        streams([0]).integers(0, (2,))
    for draw in (sphere, ball):
        with pytest.raises(ValueError, match=r"`norm` must be one of \['l1', 'l2', 'linf'\], got 'l0'"):
            draw(streams([0]), (2,), 1.0, "l0")
