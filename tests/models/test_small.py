import torch
from torch import nn

from oodattack.models.small import BasicBlock, SmallResNet


def test_shapes_and_number_of_weights():
    net = SmallResNet(channels=3, classes=10, width=4).eval()
    assert net(torch.rand(2, 3, 28, 28)).shape == (2, 10)
    # a block: 9 i o + 9 o o weights of convolutions, 4 o of norms; a shortcut that changes shape i o + 2 o more;
    # widths 4, 4, 8, 16; the stem: 16 * 3 * 4 weights, 8 of its norm
    blocks = sum(9 * i * o + 9 * o * o + 4 * o for i, o in ((4, 4), (4, 8), (8, 16)))
    blocks += sum(i * o + 2 * o for i, o in ((4, 8), (8, 16)))
    assert sum(p.numel() for p in net.parameters()) == 16 * 3 * 4 + 8 + blocks + 16 * 10 + 10


def test_shapes_after_each_stage():
    net, x = SmallResNet().eval(), torch.rand(1, 1, 32, 32)
    for name, shape in (("stem", (8, 8, 8)), ("layer1", (8, 8, 8)), ("layer2", (16, 4, 4)), ("layer3", (32, 2, 2))):
        x = net.get_submodule(name)(x)
        assert x.shape == (1, *shape)


def test_relus_are_modules_called_once_and_not_in_place():
    net, calls = SmallResNet(), []
    relus = [module for module in net.modules() if isinstance(module, nn.ReLU)]
    assert len(relus) == 7  # stem, and two in each of three blocks
    assert not any(relu.inplace for relu in relus)
    for relu in relus:
        relu.register_forward_hook(lambda module, *_: calls.append(module))
    net(torch.rand(2, 1, 32, 32))
    assert calls == relus  # in order, each once


def test_block_by_hand():
    # norms at rest are the identity up to 1e-5; all 3 x 3 weights 0, shortcut weight 2: relu(2 x) at every second pixel
    block = BasicBlock(1, 1, 2).double().eval()
    for conv, value in ((block.conv1, 0), (block.conv2, 0), (block.shortcut[0], 2)):
        nn.init.constant_(conv.weight, value)
    x = torch.tensor([[[[1.0, 9.0], [9.0, 9.0]]], [[[-1.0, 9.0], [9.0, 9.0]]]], dtype=torch.float64)
    torch.testing.assert_close(block(x).flatten().tolist(), [2.0, 0.0], atol=1e-4, rtol=0)
    # first convolution passes the middle pixel, second takes -3 of it: relu(2 - 3) = 0
    for conv, value in ((block.conv1, 1), (block.conv2, -3)):
        conv.weight.data[0, 0, 1, 1] = value
    assert block(x)[0].item() == 0


def test_a_block_that_keeps_its_shape_adds_its_input_unchanged():
    block = BasicBlock(2, 2, 1).double().eval()
    for conv in (block.conv1, block.conv2):
        nn.init.zeros_(conv.weight)
    x = torch.rand(1, 2, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(block(x), x)


def test_rows_do_not_influence_one_another_in_eval_mode():
    net = SmallResNet().double().eval()
    x = torch.rand(4, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(x)[2:3], net(x[2:3]))
