"""Corruptions, spatial and colour distortions, and the patch: what an attacker may do besides adding a small delta."""

import colorsys

import pytest
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from oodattack.attack import maximise
from oodattack.attacks.affine import GRID, affine, search_cube, turned
from oodattack.attacks.colour import colour, hsv, rgb
from oodattack.attacks.corruptions import CORRUPTIONS, corruptions
from oodattack.attacks.pgd import pgd
from oodattack.attacks.recolor import look_up, nodes, recolor
from oodattack.attacks.stadv import stadv, warp
from oodattack.geometry import STEEPEST, row_random
from oodattack.geometry.patch import patch_side, project_patch_then_clamp, window
from oodattack.threat import ThreatModel

ATTACKS = {
    "corruptions": lambda: corruptions(severity=5),
    "affine": lambda: affine(limit=1.0),
    "colour": lambda: colour(limit=0.4),
    "stadv": lambda: stadv(limit=0.025),
    "recolor": lambda: recolor(limit=0.06),
}
SHAPES = [(3, 16, 16), (1, 8, 8)]


def images(*shape: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def score(x: Tensor, _rows: Tensor | None = None) -> Tensor:
    weight = images(*x.shape[1:], seed=9).to(x.dtype) - 0.5
    return (weight * x).flatten(1).sum(1)


def limits(name: str, **changes) -> ThreatModel:
    fields = dict(
        name="t", norm="linf", eps=1.0, aim="raise", objective="score", start="ood", init="ball", attack=name,
        queries=19, restarts=1, iterate="best", source="test",
    )  # fmt: skip
    own = {"corruptions": {"severity": 5}, "pgd": {"step_size": 0.1}}.get(name, {"limit": 1.0})
    return ThreatModel(**(fields | own | changes))


def run(name: str, x: Tensor, loss=score, attack=None, rows=None, **changes):
    random = row_random(0, "test", range(len(x)) if rows is None else rows, "cpu", x.dtype)
    return maximise(loss, x, limits(name, **changes), attack or ATTACKS[name](), random, keep_clean=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ATTACKS)
def test_contract(name, shape, dtype):
    x = images(3, *shape, dtype=dtype)
    calls = 0

    def counted(z: Tensor, rows: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        assert z.dtype == dtype and ((z >= 0) & (z <= 1)).all()
        return score(z, rows)

    found = run(name, x, counted)
    assert calls == 19  # the budget is spent exactly
    assert (found.queries == 19).all()
    assert found.x_adv.shape == x.shape and found.x_adv.dtype == dtype
    assert (score(found.x_adv) > score(x)).all()  # every row is moved
    assert torch.allclose(score(found.x_adv).double(), found.value)
    assert torch.equal(found.x_adv, run(name, x).x_adv)  # same streams, same result


@pytest.mark.parametrize("name", ATTACKS)
def test_rows_do_not_influence_one_another(name):
    x = images(3, 3, 8, 8)
    together = run(name, x).x_adv
    for row in range(3):
        alone = run(name, x[row : row + 1], rows=[row]).x_adv
        assert torch.allclose(alone[0], together[row], atol=1e-9)


@pytest.mark.parametrize("name", ["affine", "colour", "stadv", "recolor"])
def test_no_limit_no_change(name):
    x = images(2, 3, 8, 8)
    attack = {"affine": affine, "colour": colour, "stadv": stadv, "recolor": recolor}[name](limit=0.0)
    random = row_random(0, "test", range(2), "cpu", x.dtype)
    sent, _ = attack.start(x, limits(name), random, 5)
    torch.testing.assert_close(sent, x, rtol=0, atol=1e-9)
    assert not run(name, x, attack=attack).x_adv.sub(x).abs().gt(1e-9).any()


@pytest.mark.parametrize("build", [affine, colour, stadv, recolor])
@pytest.mark.parametrize("limit", [-0.1, float("nan")])
def test_negative_limits_are_refused(build, limit):
    with pytest.raises(ValueError, match=r"`limit` must be >= 0, got (-0\.1|nan)\. Write "):
        build(limit=limit)


@pytest.mark.parametrize("severity", [0, 6, 2.5])
def test_severities_outside_the_scale_are_refused(severity):
    with pytest.raises(ValueError, match=rf"`severity` must be 1, 2, 3, 4 or 5, got {severity}\. Start with 5"):
        corruptions(severity=severity)


@pytest.mark.parametrize(("build", "channels"), [(colour, 2), (recolor, 4)])
def test_images_without_colours_are_refused(build, channels):
    with pytest.raises(ValueError, match=r"`x` must .* got .*Use another attack"):
        run("colour", images(1, channels, 4, 4), attack=build(limit=0.1))


# corruptions


def corrupt(name: str, x: Tensor, severity: int = 5) -> Tensor:
    random = row_random(0, "test", range(len(x)), "cpu", x.dtype)
    return CORRUPTIONS[name](x, random, severity - 1).clamp(0, 1)


def test_each_query_is_another_type_and_then_they_come_again():
    sent = []

    def watched(z: Tensor, _rows: Tensor) -> Tensor:
        sent.append(z[0])
        return score(z)

    x = images(1, 3, 8, 8)
    run("corruptions", x, watched, queries=2 + len(CORRUPTIONS))
    assert len(sent) == 19 and len(CORRUPTIONS) == 17
    for i, name in enumerate(CORRUPTIONS):  # those that draw no random numbers
        if name in ("gaussian-blur", "zoom-blur", "brightness", "contrast", "saturate", "pixelate", "jpeg"):
            torch.testing.assert_close(sent[1 + i], corrupt(name, x)[0])
    assert not torch.equal(sent[-1], sent[1])  # Gaussian noise again, drawn anew
    assert (sent[-1] - x[0]).std().item() == pytest.approx((sent[1] - x[0]).std().item(), rel=0.2)


NOISE = {  # spread of the noise at severity 5 on a grey of 0.5, by hand
    "gaussian-noise": 0.1,
    "shot-noise": (0.5 / 50) ** 0.5,  # variance x / c
    "speckle-noise": 0.5 * 0.2,
    "impulse-noise": 0.5 * 0.07**0.5,  # 7 % of the values jump by 0.5
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_has_the_published_spread(name):
    x = torch.full((2, 3, 64, 64), 0.5, dtype=torch.float64)
    noise = corrupt(name, x) - x
    assert noise.mean().abs() < 0.005
    assert noise.std().item() == pytest.approx(NOISE[name], rel=0.05)
    assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize("name", [n for n in CORRUPTIONS if n.endswith("blur")] + ["pixelate", "contrast", "elastic"])
def test_a_flat_image_stays_flat(name):
    x = torch.full((1, 3, 16, 16), 0.3, dtype=torch.float64)
    torch.testing.assert_close(corrupt(name, x), x)


@pytest.mark.parametrize(
    "name", [n for n in CORRUPTIONS if n.endswith(("noise", "blur"))] + ["contrast", "fog", "jpeg"]
)
def test_severity_5_is_farther_away_than_severity_1(name):
    x = interpolate(images(4, 3, 4, 4), (32, 32), mode="bicubic").clamp(0, 1)
    distances = [(corrupt(name, x, severity) - x).norm() for severity in (1, 5)]
    assert 0 < distances[0] < distances[1]


def test_corruptions_by_hand():
    x = torch.tensor([[[[0.2, 0.6]]]], dtype=torch.float64)
    torch.testing.assert_close(corrupt("contrast", x)[0, 0, 0], x.new_tensor([0.37, 0.43]))  # 0.4 -+ 0.15 * 0.2
    torch.testing.assert_close(corrupt("brightness", x)[0, 0, 0], x.new_tensor([0.5, 0.9]))
    assert torch.equal(corrupt("saturate", x), x)  # one channel has no colour
    red = x.new_tensor([0.8, 0.4, 0.4]).view(1, 3, 1, 1)  # V 0.8, S 0.5
    torch.testing.assert_close(corrupt("brightness", red, 4).flatten(), x.new_tensor([1.0, 0.5, 0.5]))  # V 1
    torch.testing.assert_close(corrupt("saturate", red, 2).flatten(), x.new_tensor([0.8, 0.76, 0.76]))  # S 0.05


def test_motion_blur_streaks_one_way():
    x = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    x[0, 0, 10, 10] = 1
    blurred = corrupt("motion-blur", x)[0, 0]
    assert blurred.sum().item() == pytest.approx(1, abs=0.02)
    assert (blurred[:, :10].sum() < 0.2 * blurred.sum()) != (blurred[:, 11:].sum() < 0.2 * blurred.sum())


def test_pixelate_leaves_few_values():
    assert len(corrupt("pixelate", images(1, 1, 20, 20)).unique()) == 13**2  # int(0.65 * 20) = 13


# affine


def test_a_quarter_turn_and_a_shift_by_a_pixel():
    x = images(2, 3, 10, 10)
    quarter, none = torch.full((2,), torch.pi / 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    at = turned(x, quarter, torch.zeros(2, 2, dtype=torch.float64))
    assert any(torch.allclose(grid_sample(x, at, align_corners=False), x.rot90(k, (2, 3))) for k in (1, 3))
    at = turned(x, none, torch.tensor([[0.2, 0.0]] * 2, dtype=torch.float64))  # a tenth of the side, which spans 2
    shifted = grid_sample(x, at, align_corners=False)
    torch.testing.assert_close(shifted[..., :-1], x[..., 1:])
    assert not shifted[..., -1].any()  # black comes in


def test_a_turn_of_a_wide_image_keeps_lengths():
    at = turned(torch.zeros(1, 1, 8, 16), torch.tensor([0.5]), torch.zeros(1, 2))[0]
    pixels = at * torch.tensor([8.0, 4.0])  # grid units to pixels
    torch.testing.assert_close((pixels[:, 1:] - pixels[:, :-1]).norm(dim=-1), torch.ones(8, 15))
    torch.testing.assert_close((pixels[1:] - pixels[:-1]).norm(dim=-1), torch.ones(7, 16))


def test_affine_finds_the_shift_that_hides_a_dot():
    x = torch.zeros(1, 1, 20, 20, dtype=torch.float64)
    x[0, 0, 10, 10] = 1
    aside = lambda z, _rows: z[:, 0, 10, 8]  # two pixels, 10 % of the side
    assert run("affine", x, aside, queries=1 + GRID[0] * GRID[1] * GRID[2]).value.item() == pytest.approx(1, abs=1e-6)
    assert run("affine", x, aside, queries=200).value.item() > 0.5  # no grid: draws, then refinements


def test_search_cube_finds_the_best_numbers():
    target = torch.tensor([0.3, -0.8], dtype=torch.float64)
    attack = search_cube(lambda x, numbers: (numbers[:, None, None] + 1) / 2 + 0 * x, 2)
    close = lambda z, _rows: -(2 * z[:, 0, 0] - 1 - target).norm(dim=1)
    found = run("affine", torch.zeros(3, 1, 1, 2, dtype=torch.float64), close, attack=attack, queries=100)
    assert (found.value > -0.05).all()


# colour


def test_hsv_is_that_of_the_standard_library():
    x = images(1, 3, 5, 5).index_fill(2, torch.tensor(0), 0.4)  # a row of greys
    x[..., 1, 0] = 0  # and a black one
    mine = torch.stack(hsv(x), dim=1)
    theirs = [colorsys.rgb_to_hsv(*pixel.tolist()) for pixel in x[0].flatten(1).T]
    torch.testing.assert_close(mine[0].flatten(1).T, torch.tensor(theirs, dtype=x.dtype))
    torch.testing.assert_close(rgb(*hsv(x)), x)


def test_colour_finds_another_hue():
    x = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    x[:, 0] = 0.8  # red; a twelfth of the circle, half way to yellow, makes green 0.4
    green = lambda z, _rows: z[:, 1].mean((1, 2))
    value = run("colour", x, green, attack=colour(limit=1 / 3), queries=200).value.item()
    # saturation times 2/3: (0.8, 0.533, 0.267); brightness times 4/3: (1, 0.711, 0.356); contrast: 0.022 off the mean
    assert value == pytest.approx(0.711 + 0.022 / 3, abs=0.03)


# flows and maps of colours


def ramp(rows: int = 2, side: int = 16) -> Tensor:
    """Images whose value is the place across, as a share of the side."""
    return ((torch.arange(side, dtype=torch.float64) + 0.5) / side).expand(rows, 1, side, side).clone()


def test_flow_stays_within_its_bound_and_reaches_it():
    x, limit = ramp(), 0.04
    weight = (images(*x.shape[1:], seed=9) - 0.5) * ((x > 0.1) & (x < 0.9))[0]
    loss = lambda z, _rows: (weight * z).flatten(1).sum(1)
    found = run("stadv", x, loss, attack=stadv(limit=limit), queries=60)
    assert (found.x_adv - x).abs().max() <= limit + 1e-12
    gain = found.value - loss(x, None)
    best = limit * weight.abs().sum()  # each pixel looks as far as it may, to its own side
    assert (gain <= best + 1e-9).all()
    assert (gain >= 0.99 * best).all()


def test_flow_of_one_pixel_moves_the_image():
    x = images(1, 2, 8, 8)
    flow = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    flow[:, 0] = 1 / 8
    torch.testing.assert_close(warp(x, flow)[..., :-1], x[..., 1:])
    torch.testing.assert_close(warp(x, flow.flip(1))[..., :-1, :], x[..., 1:, :])


@pytest.mark.parametrize("init", ["clean", "ball"])
def test_recolor_reaches_the_bound_on_one_colour(init):
    x = torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64).view(1, 3, 1, 1).expand(2, 3, 6, 6).clone()
    found = run("recolor", x, queries=60, init=init)
    change = found.x_adv - x
    assert change.abs().max() <= 0.06 + 1e-12
    weight = (images(3, 6, 6, seed=9) - 0.5).sum((1, 2))  # all pixels of a channel move together
    torch.testing.assert_close(change.mean((2, 3)), (0.06 * weight.sign()).expand(2, 3))


def test_equal_colours_stay_equal():
    x = images(2, 3, 4, 4)
    x[..., 2:] = x[..., :2]
    moved = run("recolor", x).x_adv
    assert torch.equal(moved[..., 2:], moved[..., :2])
    assert not torch.equal(moved, x)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_tables_are_linear_between_nodes(channels):
    x = images(2, channels, 4, 4)
    shape = nodes(x)
    assert shape == (channels, *[1] * (3 - channels), *[8] * channels)
    axes = [torch.linspace(0, 1, 8, dtype=x.dtype) for _ in range(channels)]
    colours = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])  # the first channel varies fastest
    table = (0.5 * colours + 0.1).reshape(1, *shape).expand(2, *shape)
    torch.testing.assert_close(look_up(table, x), 0.5 * x + 0.1)


# the patch


@pytest.mark.parametrize("side", [0, 1, 2, 5, 8, 9, 20])
def test_window_is_a_square_in_the_middle(side):
    mask = window((3, 9, 12), side)
    assert mask.shape == (9, 12)
    inside = mask.nonzero()
    assert len(inside) == min(side, 9) * min(side, 12)
    if 0 < side <= 9:
        assert inside.amin(0).tolist() == [(9 - side) // 2, (12 - side) // 2]
        assert (inside.amax(0) - inside.amin(0) + 1).tolist() == [side, side]
    assert (window((9, 12), side + 1) | ~mask).all()  # a larger window holds a smaller one


@pytest.mark.parametrize("side", [-1, 2.5, float("nan")])
def test_windows_of_no_whole_size_are_refused(side):
    with pytest.raises(ValueError, match="`eps` of a patch must be a whole number of pixels >= 0, got"):
        window((4, 4), side)
    with pytest.raises(ValueError, match=r"a patch must lie in images, shape \(..., H, W\), got \(7,\)"):
        window((7,), 2)


def test_patch_projection_is_the_nearest_allowed_point():
    x, far, other = (images(5, 3, 9, 8, seed=seed) for seed in (2, 0, 1))
    far = x + 9 * (far - 0.5)
    u, v = project_patch_then_clamp(far, x, 4), project_patch_then_clamp(other, x, 4)
    assert torch.equal(project_patch_then_clamp(u, x, 4), u)
    assert (((far - u) * (v - u)).flatten(1).sum(1) <= 1e-12).all()  # variational inequality
    assert (patch_side(u - x) == 4).all() and (patch_side(far - x) == 9).all() and (patch_side(x - x) == 0).all()
    mask = window(x.shape, 4)
    assert torch.equal(u[..., ~mask], x[..., ~mask])  # bit for bit
    assert torch.equal(u[..., mask], far.clamp(0, 1)[..., mask])
    assert project_patch_then_clamp(x[:0], x[:0], 2).shape == (0, 3, 9, 8)


@pytest.mark.parametrize("side", range(1, 10))
def test_side_is_that_of_the_smallest_window(side):
    delta = torch.zeros(1, 1, 9, 9)
    delta[0, 0, (9 - side) // 2, (9 - side) // 2] = 1e-9  # a corner of the window of that side
    assert patch_side(delta).item() in (side - 1, side)
    assert patch_side(window((9, 9), side)[None, None].float()).item() == side


@pytest.mark.skipif("patch" not in STEEPEST, reason="the norm table does not list the patch")
def test_pgd_paints_the_patch_and_nothing_else():
    x = images(2, 1, 8, 8)
    found = run("pgd", x, attack=pgd(step_size=0.3), norm="patch", eps=3.0, init="clean", queries=10)
    assert (patch_side(found.x_adv - x) == 3).all()
    weight = (images(1, 8, 8, seed=9) - 0.5)[:, window((8, 8), 3)]
    best = score(x) + (weight * ((weight > 0).to(x) - x[..., window((8, 8), 3)])).flatten(1).sum(1)
    torch.testing.assert_close(found.value, best)  # each pixel of the patch at its better wall
