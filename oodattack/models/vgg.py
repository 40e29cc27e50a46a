"""VGG13 for small images, with batch norm or without.

Convolutions of Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
arXiv:1409.1556, Table 1, configuration B. The head is that of the network in Lee, Lee, Lee & Shin, "Training
Confidence-calibrated Classifiers for Detecting Out-of-Distribution Samples", ICLR 2018, arXiv:1711.09325, as in the
authors' code.
"""

from torch import Tensor, nn

from oodattack.models.he_start import he_start

STAGES = ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))  # channels of the convolutions before each pool


class VGG13(nn.Module):
    """Ten 3 x 3 convolutions and five max pools in `features`; three linear maps with dropout in `classifier`.

    Args:
        channels: of the images.
        classes: number of logits.
        norm: put a batch norm behind every convolution.
        dropout: probability of a zero in the head, in [0, 1).

    Raises:
        ValueError: a dropout outside [0, 1).

    Differs from the paper: the head has 512 hidden units, for images of 32 pixels, not 4096.
    Differs from the authors' code: pools round up, and an average over positions comes before the head; at 32 pixels
    both change nothing, and other sizes work too.
    """

    def __init__(self, channels: int, classes: int, *, norm: bool, dropout: float = 0.5) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), got {dropout}. Take 0.5, as the authors do.")
        self.features = convolutions(channels, norm=norm)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(512, classes),
        )
        he_start(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, classes), of images (B, channels, H, W), H and W >= 1, normalised or not."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


def convolutions(channels: int, *, norm: bool) -> nn.Sequential:
    """conv, perhaps norm, relu for every number in `STAGES`, and a pool after every pair."""
    modules: list[nn.Module] = []
    for stage in STAGES:
        for out in stage:
            modules.append(nn.Conv2d(channels, out, 3, padding=1))
            modules += [nn.BatchNorm2d(out)] if norm else []
            modules.append(nn.ReLU())
            channels = out
        modules.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*modules)
