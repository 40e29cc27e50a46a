"""A network that classifies at several depths."""

import math

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.classifier.copies import agree
from oodattack.classifier.folding import fold
from oodattack.models.exits import ExitNet, MultiScaleLayer, exits_loss


def small(depth=5, **sizes):
    torch.manual_seed(0)
    return ExitNet(1, 3, width=2, growth=1, depth=depth, **sizes)


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 48), (1, 64)])
def test_five_exits_of_the_same_shape_on_images_of_every_size(channels, size):
    net = ExitNet(channels, 7, width=2, growth=1).eval()
    logits = net.exits(torch.rand(2, channels, size, size))
    assert [tuple(z.shape) for z in logits] == [(2, 7)] * 5


def test_a_layer_appends_to_every_scale():
    # growth 1, 2, 4 from the same scale, and for the two coarser as much from the finer one: 2 + 1, 4 + 4, 8 + 8
    layer = MultiScaleLayer([2, 4, 8], [1, 2, 4], keep=3).eval()
    scales = [torch.rand(1, c, s, s) for c, s in ((2, 7), (4, 4), (8, 2))]
    out = layer(scales)
    assert layer.widths == [3, 8, 16] and [tuple(h.shape[1:]) for h in out] == [(3, 7, 7), (8, 4, 4), (16, 2, 2)]
    assert all(torch.equal(new[:, : old.shape[1]], old) for new, old in zip(out, scales, strict=True))  # dense


def test_a_layer_gives_fine_scales_up():
    # the second scale goes on: 4 + 2 of its own + 2 of the first; the third as before
    layer = MultiScaleLayer([2, 4, 8], [1, 2, 4], keep=2).eval()
    scales = [torch.rand(1, c, s, s, requires_grad=True) for c, s in ((2, 7), (4, 4), (8, 2))]
    middle, coarse = layer(scales)
    assert layer.widths == [8, 16] and middle.shape[1:] == (8, 4, 4) and coarse.shape[1:] == (16, 2, 2)
    used = torch.autograd.grad(coarse.sum(), scales, allow_unused=True)
    assert [g is not None for g in used] == [False, True, True]  # of the next finer scale only


def test_forward_is_the_last_exit_and_its_head_the_classifier_s():
    network, x = small().eval(), torch.rand(3, 1, 32, 32)
    assert torch.equal(network(x), network.exits(x)[-1])
    net = Classifier(network)
    assert net.head == "heads.4"
    seen = net.run(x)
    torch.testing.assert_close(network.heads[-1](seen.features), seen.logits)


def test_later_exits_see_more():
    # an exit does not depend on the layers behind it
    network, x = small().eval(), torch.rand(2, 1, 32, 32)
    before = network.exits(x)
    nn.init.zeros_(network.layers[2].same[2][0].weight)
    after = network.exits(x)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, False, False]


def test_loss_of_undecided_exits_by_hand():
    # every head returns zeros: log 3 for each of four exits
    network = small(depth=4)
    for head in network.heads:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    loss = exits_loss(network, torch.rand(6, 1, 32, 32), torch.arange(6) % 3)
    assert loss.item() == pytest.approx(4 * math.log(3), rel=1e-6)


def test_loss_trains_every_exit_and_forward_the_last_only():
    network, x, y = small(), torch.rand(6, 1, 32, 32), torch.arange(6) % 3
    nn.functional.cross_entropy(network(x), y).backward()
    assert [head.weight.grad is not None for head in network.heads] == [False] * 4 + [True]
    exits_loss(network, x, y).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_training_teaches_every_exit():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = 0.3 * torch.rand(60, 1, 32, 32, generator=generator)
    for k in range(3):
        x[y == k, :, 10 * k : 10 * k + 8] += 0.5  # a bar
    network = small()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(10):
        optimiser.zero_grad()
        exits_loss(network, x, y).backward()
        optimiser.step()
    network.eval()
    assert all((logits.argmax(1) == y).double().mean() > 0.95 for logits in network.exits(x))


def test_relus_are_modules_called_once_and_not_in_place():
    network, calls = small(), []
    relus = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    assert len(relus) == 1 + 2 + 3 * 5 + 4 + 2 and not any(relu.inplace for relu in relus)
    for relu in relus:
        relu.register_forward_hook(lambda module, *_: calls.append(module))
    network(torch.rand(2, 1, 32, 32))
    assert len(calls) == len(relus) and set(calls) == set(relus)


def test_it_can_be_folded():
    network, x = small().eval(), torch.rand(4, 1, 32, 32)
    folded = fold(network)
    assert folded is not None and agree(folded(x), network(x))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


def test_rows_do_not_influence_one_another():
    network, x = small().double().eval(), torch.rand(5, 1, 32, 32, dtype=torch.float64)
    whole = torch.stack(network.exits(x))
    single = torch.cat([torch.stack(network.exits(row[None])) for row in x], dim=1)
    torch.testing.assert_close(single, whole, rtol=1e-9, atol=1e-9)


def test_no_exit_is_refused():
    with pytest.raises(ValueError, match=r"`depth` must be >= 1, got 0. MSDNet has 5"):
        ExitNet(1, 3, depth=0)
