"""Reconstruction error of an auto-encoder: section 2.4 of Liang et al., "An Algorithm for Out-of-Distribution Attack to
Neural Network Encoder", arXiv:2009.08016."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss, pixel_shuffle, silu

from oodattack.detectors.batches import Images, batches, shuffled


class AutoEncoder(nn.Module):
    """Three strided convolutions to a code, and three back, each of which doubles the size by pixel shuffle.

    Small on purpose: a code that is too large reconstructs OOD images as well (section 2.4).

    Args:
        shape: (C, H, W) of the images.
        code: length of the code, >= 1.
        width: channels of the first stage, >= 1; the next have twice and four times as many.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, shape: Sequence[int], *, code: int = 64, width: int = 16) -> None:
        super().__init__()
        for field, value in (("shape", min(shape, default=0)), ("code", code), ("width", width)):
            if value < 1:
                raise ValueError(f"`{field}` must be >= 1, got {value}. Make it larger.")
        channels, *size = shape
        self.shape, self.code, self.width = tuple(shape), code, width
        self.sizes = [tuple(-(-n // 2**k) for n in size) for k in range(4)]  # of the images, then halved three times
        widths = [channels, width, 2 * width, 4 * width]
        down = [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)]
        up = [nn.Conv2d(b, 4 * a, 3, padding=1) for a, b in pairwise(widths)][::-1]
        flat = widths[-1] * self.sizes[-1][0] * self.sizes[-1][1]
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.squeeze, self.expand = nn.Linear(flat, code), nn.Linear(code, flat)

    def encode(self, x: Tensor) -> Tensor:
        """Code, shape (B, code), unbounded, of images x (B, C, H, W) in [0, 1].

        Raises:
            ValueError: images of another shape.
        """
        if x.shape[1:] != self.shape:
            raise ValueError(f"`x` must have images of shape {self.shape}, got {tuple(x.shape[1:])}. Fit on such ones.")
        h = x
        for layer in self.down:
            h = silu(layer(h))
        z: Tensor = self.squeeze(h.flatten(1))
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Images, shape (B, C, H, W), about in [0, 1], of codes z (B, code)."""
        h: Tensor = self.expand(z).view(len(z), -1, *self.sizes[-1])
        for layer, (height, width) in zip(self.up, self.sizes[-2::-1], strict=True):
            h = pixel_shuffle(layer(silu(h)), 2)[:, :, :height, :width]
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions, shape of `x`."""
        return self.decode(self.encode(x))


class Reconstruction(nn.Module):
    """||x - D(E(x))||_p of an auto-encoder, section 2.4; see `fit_auto_encoder`.

    The latent is the code E(x), of which the score is no function: an image whose code matches that of an ID image is
    reconstructed as that image, so that matching the code makes an OOD image stand out all the more.

    Args:
        auto_encoder: E and D.
        p: of the norm, >= 1.

    Raises:
        ValueError: `p` is below 1.
    """

    name = "auto-encoder"

    def __init__(self, auto_encoder: AutoEncoder, *, p: float = 2.0) -> None:
        super().__init__()
        if not p >= 1:
            raise ValueError(f"`p` must be >= 1, got {p}. Write 2 for the Euclidean distance.")
        self.auto_encoder, self.p = auto_encoder, p
        self.latent = auto_encoder.encode
        self.training = auto_encoder.training

    def forward(self, x: Tensor) -> Tensor:
        """OOD scores, shape (B,), >= 0."""
        error = (x - self.auto_encoder(x)).flatten(1)
        score: Tensor = torch.linalg.vector_norm(error, self.p, dim=1)
        return score


def fit_auto_encoder(
    x: Images,
    *,
    seed: int,
    code: int = 64,
    width: int = 16,
    p: float = 2.0,
    steps: int = 500,
    lr: float = 4e-3,
    batch_size: int = 128,
) -> Reconstruction:
    """Train an auto-encoder on ID images x (N, C, H, W) in [0, 1]: mean squared error, Adam, one cycle of the rate.

    Args:
        x: ID images, or batches of them; the device and type of number of the detector are theirs.
        seed: of the initial weights, and of the order of a tensor `x`.
        code: see `AutoEncoder`.
        width: see `AutoEncoder`.
        p: see `Reconstruction`.
        steps: batches seen, >= 2, in as many rounds through the images as that takes.
        lr: highest learning rate.
        batch_size: images of a tensor `x` a step.

    Returns:
        The detector, in eval mode.

    Raises:
        ValueError: no images, or fewer than 2 steps.

    Differs from the paper: it names the detector and trains none, so architecture and schedule are ours.
    """
    if steps < 2:
        raise ValueError(f"`steps` must be >= 2, got {steps}. Some hundred are needed.")
    first, _ = next(batches(x, net=nn.Identity(), batch_size=1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoEncoder(first.shape[1:], code=code, width=width).to(first.device)
    generator = Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
    done = 0
    with torch.enable_grad():
        while done < steps:
            for rows, _ in batches(shuffled(x, generator), net=network, batch_size=batch_size):
                if done == steps:
                    break
                loss = mse_loss(network(rows.float()), rows.float())
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                done += 1
    optimiser.zero_grad()
    return Reconstruction(network.to(first.dtype).eval(), p=p)
