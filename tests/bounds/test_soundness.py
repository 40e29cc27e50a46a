"""Bounds hold: on random networks, at random points of the ball, for every step of the network and every functional."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import CLASSES, DOUBLE, IMAGE, KINDS, images, points, random_net

from oodattack.bounds.backward import linear_bounds
from oodattack.bounds.ball import Ball
from oodattack.bounds.network import network
from oodattack.bounds.slopes import gradients, local_lipschitz

SLACK = 1e-9


def ball(x, norm, eps):
    return Ball(x, torch.full((len(x),), eps, dtype=DOUBLE), norm, 0.0, 1.0)


def assert_sound(kind, norm, eps, seed, *, deep):
    """Boxes of all steps, and random linear functions of the logits and features, at 40 points a row."""
    net, x = random_net(kind, seed), images(3, seed + 1)
    own = network(net, IMAGE, deep=deep)
    found = own.on(ball(x, norm, eps))
    tried = points(x, norm, eps, 40, seed + 2)
    outputs = own.graph.points(tried.flatten(0, 1))
    for box, values in zip(found.boxes, outputs, strict=True):
        seen = values.view(len(tried), *box.lower.shape)
        assert (seen >= box.lower - SLACK).all() and (seen <= box.upper + SLACK).all()
    for at in (own.graph.logits, own.graph.features):
        a = torch.randn(5, outputs[at][0].numel(), generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
        bounds = linear_bounds(found, a, at)
        seen = (outputs[at].flatten(1) @ a.mT).view(len(tried), len(x), 5)
        assert (seen >= bounds.lower - SLACK).all() and (seen <= bounds.upper + SLACK).all()
    return found, bounds, seen


@pytest.mark.parametrize("deep", [True, False], ids=["deep", "intervals"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_hold_on_every_kind_of_network(kind, norm, deep):
    for eps in (0.01, 0.3):
        assert_sound(kind, norm, eps, 7, deep=deep)


@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(KINDS),
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.sampled_from([0.0, 1e-3, 0.02, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**16),
    deep=st.booleans(),
)
def test_bounds_hold_on_random_networks(kind, norm, eps, seed, deep):
    assert_sound(kind, norm, eps, seed, deep=deep)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_linear_bounds_are_inside_the_intervals_and_tight_on_small_balls(kind, norm):
    net, x = random_net(kind, 3), images(4, 4)
    a = torch.eye(CLASSES, dtype=DOUBLE)
    own = [network(net, IMAGE, deep=deep) for deep in (True, False)]
    deep, flat = (linear_bounds(each.on(ball(x, norm, 0.05)), a, each.at) for each in own)
    assert (deep.lower >= flat.lower - SLACK).all() and (deep.upper <= flat.upper + SLACK).all()
    near = linear_bounds(own[0].on(ball(x, norm, 1e-7)), a, own[0].at)
    assert (near.upper - near.lower).max() < 1e-4  # and not only sound


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_points_of_the_ball_are_steeper_than_the_constants(kind):
    net, x = random_net(kind, 11), images(3, 12)
    own = network(net, IMAGE, deep=True)
    a = torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    for norm, order in (("linf", float("inf")), ("l2", 2)):
        found = own.on(ball(x, norm, 0.1))
        tried = points(x, norm, 0.1, 30, 13)
        values = (net.logits(tried.flatten(0, 1)) @ a.mT).view(30, 3, 3)
        apart = (tried[1:] - tried[:-1]).flatten(2).norm(p=order, dim=2)[..., None]
        steepness = (values[1:] - values[:-1]).abs() / apart
        assert (steepness <= local_lipschitz(found, a, own.at) + SLACK).all()
        point = tried[0].clone().requires_grad_()
        (gradient,) = torch.autograd.grad((net.logits(point) @ a[0]).sum(), point)
        low, high = (part[:, 0] for part in gradients(found, a, own.at))
        assert (gradient.flatten(1) >= low - SLACK).all() and (gradient.flatten(1) <= high + SLACK).all()
    everywhere = torch.rand(200, *IMAGE, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    logits = net.logits(everywhere)
    steepness = (logits[1:] - logits[:-1]).norm(dim=1) / (everywhere[1:] - everywhere[:-1]).flatten(1).norm(dim=1)
    assert (steepness <= own.constants[own.at]).all()


def test_ten_thousand_points():
    net, x = random_net("basic", 5), images(2, 6)
    own = network(net, IMAGE, deep=True)
    for norm, eps in (("linf", 0.05), ("l2", 0.3)):
        bounds = linear_bounds(own.on(ball(x, norm, eps)), torch.eye(CLASSES, dtype=DOUBLE), own.at)
        draw = torch.Generator().manual_seed(8)
        delta = torch.randn(10_000, *x.shape, generator=draw, dtype=DOUBLE)
        size = delta.abs().flatten(2).amax(2) if norm == "linf" else delta.flatten(2).norm(dim=2)
        tried = (x + eps * delta / size[..., None, None, None]).clamp(0, 1)
        seen = net.logits(tried.flatten(0, 1)).view(10_000, 2, -1)
        assert (seen >= bounds.lower - SLACK).all() and (seen <= bounds.upper + SLACK).all()
