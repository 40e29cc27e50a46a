"""The generator and discriminator of the confident classifier: a DCGAN, Radford, Metz & Chintala, "Unsupervised
Representation Learning with Deep Convolutional Generative Adversarial Networks", ICLR 2016, arXiv:1511.06434, in the
form that Lee et al. 2018, arXiv:1711.09325, train: three strided convolutions, images in [0, 1]."""

from torch import nn

SPREAD = 0.02  # standard deviation of initial weights, as in the authors' code


def generator(channels: int, size: int, *, latent: int, width: int) -> nn.Sequential:
    """G: noise (B, latent) -> images (B, channels, size, size) in (0, 1).

    Sides grow s -> 2s -> 4s -> size from s = ceil(size / 8); the last convolution pads away what 8s has too much.

    Args:
        channels: of the images, >= 1.
        size: pixels a side, >= 8; made for 28 to 32.
        latent: numbers of standard normal noise an image; 100 in the authors' code.
        width: a fourth of the channels before the second last convolution; 64 in the authors' code.

    Returns:
        Network in training mode, weights from torch's global random state.

    Raises:
        ValueError: a number out of range.

    Differs from the authors' code: takes noise as (B, latent); sizes other than 32.
    """
    _check(channels, size, width=width, latent=latent)
    start = -(-size // 8)
    excess = 8 * start - size  # pixels
    layers = [
        nn.Unflatten(1, (latent, 1, 1)),
        nn.ConvTranspose2d(latent, 8 * width, start, bias=False),
        *_norm(8 * width, nn.ReLU()),
        nn.ConvTranspose2d(8 * width, 4 * width, 4, stride=2, padding=1, bias=False),
        *_norm(4 * width, nn.ReLU()),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1, bias=False),
        *_norm(2 * width, nn.ReLU()),
        nn.ConvTranspose2d(
            2 * width, channels, 4, stride=2, padding=1 + (excess + 1) // 2, output_padding=excess % 2, bias=False
        ),
        nn.Sigmoid(),
    ]
    return _initialised(nn.Sequential(*layers))


def discriminator(channels: int, size: int, *, width: int) -> nn.Sequential:
    """D before the sigmoid: images (B, channels, size, size) in [0, 1] -> (B,), unbounded, higher means more real.

    Args:
        channels: of the images, >= 1.
        size: pixels a side, >= 8; made for 28 to 32.
        width: half the channels after the first convolution; 64 in the authors' code.

    Returns:
        Network in training mode, weights from torch's global random state.

    Raises:
        ValueError: a number out of range.

    Differs from the authors' code: no sigmoid at the end, see `discriminator_loss`; sizes other than 32.
    """
    _check(channels, size, width=width)
    layers = [
        nn.Conv2d(channels, 2 * width, 4, stride=2, padding=1, bias=False),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1, bias=False),
        *_norm(4 * width, nn.LeakyReLU(0.2)),
        nn.Conv2d(4 * width, 8 * width, 4, stride=2, padding=1, bias=False),
        *_norm(8 * width, nn.LeakyReLU(0.2)),
        nn.Conv2d(8 * width, 1, size // 8, bias=False),  # sides halve and round down three times
        nn.Flatten(0),
    ]
    return _initialised(nn.Sequential(*layers))


def _norm(channels: int, activation: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Batch norm and what follows it."""
    return nn.BatchNorm2d(channels), activation


def _initialised(network: nn.Sequential) -> nn.Sequential:
    """Weights from N(0, 0.02^2), those of batch norms from N(1, 0.02^2), biases 0."""
    for module in network:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, SPREAD)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, SPREAD)
            nn.init.zeros_(module.bias)
    return network


def _check(channels: int, size: int, **numbers: int) -> None:
    """Raise ValueError unless size >= 8 and the other numbers are >= 1."""
    for name, value in {"channels": channels, **numbers}.items():
        if value < 1:
            raise ValueError(f"`{name}` must be >= 1, got {value}. The authors take latent 100 and width 64.")
    if size < 8:
        raise ValueError(f"`size` must be >= 8, got {size}. Three strided convolutions need as much: enlarge images.")
