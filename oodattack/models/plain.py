"""A plain convolutional network: no norms, no shortcuts, so that intervals stay narrow on their way through it."""

from torch import nn


class PlainConvNet(nn.Sequential):
    """Four convolutions, each with a ReLU, then averages over quarters of the image and a linear head.

    Small, after the networks that interval bounds are trained with: Gowal et al., arXiv:1810.12715, Table 1.

    Args:
        channels: of the images.
        classes: number of logits.
        width: channels of the first convolution; the next have twice, twice and four times as many.
    """

    def __init__(self, channels: int = 1, classes: int = 6, width: int = 16) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * width, classes),
        )
