import sys

import pytest
import torch
from torch import nn

from oodattack.models import MODELS, build
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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_model_builds(name, channels):
    assert MODELS[name].name == name
    assert build(name, channels=channels, classes=5)(torch.rand(2, channels, 32, 32)).shape == (2, 5)


def test_torchvision_by_name():
    net = build("torchvision:mobilenet_v3_small", channels=3, classes=7)
    assert net.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 7)


WRONG = {
    "misspelt": ("smal", 1, 6, r"`name` must be one of small, .*got 'smal'. Did you mean 'small'\?"),
    "torchvision": ("torchvision:resnet81", 3, 6, r"got 'resnet81'. Did you mean 'resnet18'\?"),
    "detection": ("torchvision:fasterrcnn_resnet50_fpn", 3, 6, "`torchvision:NAME` must be one of alexnet"),
    "grey": ("torchvision:resnet18", 1, 6, "`channels` must be 3 for `torchvision:resnet18`, got 1"),
    "channels": ("small", 0, 6, "`channels` must be >= 1 and `classes` >= 2, got 0 and 6"),
    "classes": ("small", 1, 1, "`channels` must be >= 1 and `classes` >= 2, got 1 and 1"),
    "module": ("no_such_module:net", 1, 6, "`no_such_module:net` must name an importable module"),
    "attribute": ("math:net", 1, 6, "`math:net` must name something in math"),
    "result": ("os:getcwd", 1, 6, "`os:getcwd` must return an nn.Module, got str"),
}


@pytest.mark.parametrize(("name", "channels", "classes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use(name, channels, classes, message):
    with pytest.raises(ValueError, match=message):
        build(name, channels=channels, classes=classes)


CODE = """
from torch import nn
def none(): return nn.Linear(2, 3)
def some(classes): return nn.Linear(2, classes)
def both(channels, classes, depth=1): return nn.Linear(channels, classes)
"""


def test_user_code_gets_the_arguments_that_it_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "user_model_code.py").write_text(CODE)
    shapes = [build(f"user_model_code:{name}", channels=4, classes=5).weight.shape for name in ("none", "some", "both")]
    sys.modules.pop("user_model_code")
    assert shapes == [(3, 2), (5, 2), (5, 4)]
