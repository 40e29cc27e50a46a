import pytest
import torch

from oodattack.geometry.balls import norm_of
from oodattack.geometry.steepest import STEEPEST, free, steepest_l1, steepest_l2, steepest_linf, uphill

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}  # of the norms; pixels of a patch are free, their direction is the sign
EXACT = {**STEEPEST, "l1": lambda g: steepest_l1(g, share=1e-9)}  # one coordinate


def gradients(dtype=torch.float64):
    return torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("norm", DUAL)
def test_ascent_is_the_dual_norm(norm):
    g = gradients()
    torch.testing.assert_close((EXACT[norm](g) * g).flatten(1).sum(1), norm_of(g, DUAL[norm]))


@pytest.mark.parametrize("norm", DUAL)
def test_direction_has_unit_norm(norm):
    for dtype in (torch.float32, torch.float64):
        u = STEEPEST[norm](gradients(dtype))
        assert u.dtype == dtype
        torch.testing.assert_close(norm_of(u, norm), torch.ones(6, dtype=dtype))


@pytest.mark.parametrize("norm", STEEPEST)
def test_rows_do_not_see_one_another(norm):
    g = gradients()
    torch.testing.assert_close(STEEPEST[norm](g)[2:3], STEEPEST[norm](g[2:3]), rtol=0, atol=0)


@pytest.mark.parametrize("norm", STEEPEST)
def test_zero_rows_stay_zero(norm):
    g = gradients()
    g[1] = 0
    u = STEEPEST[norm](g)
    assert (u[1] == 0).all() and (u[[0, 2, 3, 4, 5]].flatten(1).abs().sum(1) > 0).all()
    assert STEEPEST[norm](torch.empty(0, 3, 4, 4)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("norm", STEEPEST)
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e30])
def test_direction_does_not_depend_on_scale(norm, scale):
    g = gradients(torch.float32)
    assert g.mul(1e-30).square().sum() == 0  # a plain length would be zero
    torch.testing.assert_close(STEEPEST[norm](scale * g), STEEPEST[norm](g))


def test_reference_values():
    g = torch.tensor([[3.0, -4.0, 0.0, 0.0]])
    assert steepest_linf(g).tolist() == [[1.0, -1.0, 0.0, 0.0]]
    torch.testing.assert_close(steepest_l2(g), torch.tensor([[0.6, -0.8, 0.0, 0.0]]))
    assert steepest_l1(g).tolist() == [[0.0, -1.0, 0.0, 0.0]]  # 1 % of 4 is at least one
    sevenths = torch.tensor([[3 / 7, -4 / 7, 0.0, 0.0]])
    torch.testing.assert_close(steepest_l1(g, share=0.5), sevenths)
    torch.testing.assert_close(steepest_l1(g, share=1.0), sevenths)


def test_uphill_minds_the_walls_in_l1_alone():
    # 1 and 2 can move; 3 and -2.5 stand at their walls and are sent on, -0.5 comes after the one that can move
    g, x = torch.tensor([[3.0, -2.5, 2.0, 1.0, -0.5]]), torch.tensor([[1.0, 0.0, 0.0, 0.5, 0.0]])
    assert free(g, x).tolist() == [[0.0, 0.0, 2.0, 1.0, 0.0]]
    torch.testing.assert_close(uphill(g, x, "l1"), torch.tensor([[1.5, -1.25, 1.0, 0.0, 0.0]]))
    assert uphill(g, x, "linf").tolist() == [[1.0, -1.0, 1.0, 1.0, -1.0]]


def test_uphill_where_nothing_can_move_or_is_to_move():
    x = torch.tensor([[1.0, 0.0]])
    assert uphill(torch.tensor([[2.0, -1.0]]), x, "l1").tolist() == [[1.0, -0.5]]  # to be projected back to where it is
    assert uphill(torch.zeros(1, 2), x, "l1").tolist() == [[0.0, 0.0]]
    assert uphill(torch.zeros(0, 2), x[:0], "l1").shape == (0, 2)


def test_l1_moves_the_share_asked_for():
    g = torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    for share, moved in ((0.01, 4), (0.05, 20), (1.0, 400)):
        u = steepest_l1(g, share=share)
        assert ((u != 0).sum(1) == moved).all()
        largest = g.abs().topk(moved, dim=1).values
        ascent = largest.square().sum(dim=1) / largest.sum(dim=1)  # in proportion to |g|
        torch.testing.assert_close((u * g).sum(1), ascent)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_share_out_of_range_is_named(share):
    with pytest.raises(ValueError, match=r"`share` must be in \(0, 1\], got"):
        steepest_l1(torch.ones(1, 2), share=share)


def test_direction_in_a_patch_is_the_sign():
    assert STEEPEST["patch"] is steepest_linf
