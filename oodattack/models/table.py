"""The package's own networks by name: the literal dict."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from oodattack.models.cifar_resnet import CifarResNet
from oodattack.models.densenet import DenseNet
from oodattack.models.exits import ExitNet
from oodattack.models.grey_convnet import GreyConvNet
from oodattack.models.option_a_resnet import OptionAResNet
from oodattack.models.plain import PlainConvNet
from oodattack.models.small import SmallResNet
from oodattack.models.vgg import VGG13
from oodattack.models.wide_resnet import WideResNet

RESNET = "arXiv:1512.03385"
WIDE = "arXiv:1605.07146"
VGG = "arXiv:1409.1556, configuration B; head of arXiv:1711.09325"


class Model(NamedTuple):
    """A line of the registry.

    Attributes:
        name: as on the command line.
        source: where the architecture comes from.
        description: what it is.
        build: (channels, classes) -> untrained network from images to logits.
    """

    name: str
    source: str
    description: str
    build: Callable[[int, int], nn.Module]


def option_a(depth: int) -> Model:
    """The row of a thin ResNet."""
    words = f"thin residual network for CIFAR, {depth} layers, shortcuts without weights"
    return Model(f"resnet{depth}", f"{RESNET}, section 4.2", words, lambda c, k: OptionAResNet(c, k, depth=depth))


def wide(depth: int, width: int) -> Model:
    """The row of a wide ResNet without dropout."""
    words = f"wide residual network, {depth} layers, {width} times the channels"
    return Model(f"wrn-{depth}-{width}", WIDE, words, lambda c, k: WideResNet(c, k, depth=depth, width=width))


MODELS: dict[str, Model] = {
    row.name: row
    for row in (
        Model(
            "small",
            "after He et al. 2016, arXiv:1512.03385",
            "residual network of 20 thousand weights, widths 8, 16, 32; for 28 to 64 pixels a side",
            lambda channels, classes: SmallResNet(channels, classes),
        ),
        Model(
            "plain",
            "after arXiv:1810.12715, Table 1",
            "four convolutions without norms, for interval bounds; 28 pixels a side and more",
            lambda channels, classes: PlainConvNet(channels, classes),
        ),
        Model(
            "resnet18",
            f"{RESNET}, Table 1, with the stem for CIFAR",
            "residual network, 18 layers, widths 64 to 512",
            lambda channels, classes: CifarResNet(channels, classes, blocks=(2, 2, 2, 2)),
        ),
        Model(
            "resnet34",
            f"{RESNET}, Table 1, with the stem for CIFAR",
            "residual network, 34 layers, widths 64 to 512",
            lambda channels, classes: CifarResNet(channels, classes, blocks=(3, 4, 6, 3)),
        ),
        option_a(20),
        option_a(32),
        option_a(44),
        option_a(56),
        option_a(110),
        wide(40, 2),
        wide(40, 4),
        wide(28, 10),
        Model(
            "madry-resnet",
            f"arXiv:1706.06083, as {WIDE} with depth 34 and width 1",
            "pre-activation residual network of Learning ODIN, 34 layers",
            lambda channels, classes: WideResNet(channels, classes, depth=34, width=1),
        ),
        Model(
            "densenet-100-12",
            "arXiv:1608.06993, section 3",
            "DenseNet-BC, 100 layers that add 12 channels each",
            lambda channels, classes: DenseNet(channels, classes, depth=100, growth=12),
        ),
        Model(
            "vgg13",
            VGG,
            "ten convolutions, five pools, no norms",
            lambda channels, classes: VGG13(channels, classes, norm=False),
        ),
        Model(
            "vgg13-bn",
            VGG,
            "the same with batch norms",
            lambda channels, classes: VGG13(channels, classes, norm=True),
        ),
        Model(
            "grey-convnet",
            "code of arXiv:1812.04606",
            "two convolutions with GELUs for 28 x 28 grey images",
            lambda channels, classes: GreyConvNet(channels, classes),
        ),
        Model(
            "exits",
            "after arXiv:1703.09844",
            "small network on three scales that classifies at five depths; for 28 to 64 pixels a side",
            lambda channels, classes: ExitNet(channels, classes),
        ),
    )
}
