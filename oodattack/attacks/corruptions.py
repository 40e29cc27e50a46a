"""Common corruptions: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness ...", arXiv:1903.12261.

The attacker tries one type after the other, as the worst case over types of Chen et al., ATOM, arXiv:2006.15207. The
severities are those of the authors' code for 32 x 32 images (CIFAR-10-C); lengths in pixels stay the same on others, so
larger images come off lightly. Frost is left out, because it needs photographs, and so is spatter.
"""

import math
from collections.abc import Callable
from io import BytesIO
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, interpolate, pad

from oodattack.attack import Attack, Seen
from oodattack.attacks.colour import hsv, rgb
from oodattack.attacks.stadv import warp
from oodattack.geometry import RowRandom
from oodattack.threat import ThreatModel

Corruption = Callable[[Tensor, RowRandom, int], Tensor]  # x (B, C, H, W), streams, severity 0..4 -> same shape


class State(NamedTuple):
    """How many types have been sent."""

    t: int


def corruptions(*, severity: int) -> Attack:
    """Query t is corruption number t of the clean image; after the last type they come again with new random numbers.

    A search shorter than `CORRUPTIONS` leaves the later types out. Black box.

    Args:
        severity: 1 (mild) to 5.

    Raises:
        ValueError: `severity` is out of range.

    Differs from the paper: see each type; everything works on tensors of any size and number of channels, without a
    rounding to 8 bits on the way (JPEG apart), and saturate leaves what is not RGB as it is.
    """
    if severity not in range(1, 6):
        raise ValueError(f"`severity` must be 1, 2, 3, 4 or 5, got {severity}. Start with 5, the strongest.")
    types = tuple(CORRUPTIONS.values())

    def send(x: Tensor, random: RowRandom, t: int) -> tuple[Tensor, State]:
        return types[t % len(types)](x, random, severity - 1).clamp(0, 1), State(t + 1)

    def start(x: Tensor, _threat: ThreatModel, random: RowRandom, _steps: int) -> tuple[Tensor, State]:
        return send(x, random, 0)

    def step(_seen: Seen, x: Tensor, _threat: ThreatModel, random: RowRandom, s: State) -> tuple[Tensor, State]:
        return send(x, random, s.t)

    return Attack(start, step, white_box=False)


def gaussian_noise(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """x + sigma n."""
    return x + (0.04, 0.06, 0.08, 0.09, 0.1)[s] * random.normal(x.shape[1:]).to(x)


def shot_noise(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """Poisson(c x) / c; PyTorch draws it only with one generator at a time, hence row by row."""
    rate = (500, 250, 100, 75, 50)[s]
    rows = zip((rate * x).float().cpu(), random.generators, strict=True)
    counts = [torch.poisson(row, generator=generator) for row, generator in rows]
    return torch.stack(counts).to(x) / rate if counts else x


def impulse_noise(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """A share of the values becomes 0 or 1."""
    u = random.uniform(x.shape[1:]).to(x) / (0.01, 0.02, 0.03, 0.05, 0.07)[s]
    return x.where(u >= 1, (u < 0.5).to(x))


def speckle_noise(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """x + sigma x n."""
    return x + (0.06, 0.1, 0.12, 0.16, 0.2)[s] * x * random.normal(x.shape[1:]).to(x)


def gaussian_blur(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """Gaussian of 0.4 to 1 pixels."""
    return blur(x, (0.4, 0.6, 0.7, 0.8, 1.0)[s])


def defocus_blur(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """A disk of the lens, its edge smoothed by a Gaussian."""
    radius, soft = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[s]
    at = torch.arange(-3, 4, device=x.device, dtype=x.dtype).square()
    disk = (at[:, None] + at <= radius**2).to(x)
    kernel = blur((disk / disk.sum())[None, None], soft, half=1)
    flat = x.flatten(0, 1).unsqueeze(1)
    return conv2d(pad(flat, (3, 3, 3, 3), mode="replicate"), kernel).view_as(x)


def glass_blur(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """Blur, pixels displaced by up to one, blur. Differs: a pixel copies a neighbour, they do not swap."""
    sigma, rounds = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[s]
    x = blur(x, sigma)
    height, width = x.shape[2:]
    for _ in range(rounds):
        jump = random.integers(2, (2, height, width)).to(x.device)
        down = (torch.arange(height, device=x.device)[:, None] - jump[:, 0]).clamp(min=0)
        across = (torch.arange(width, device=x.device) - jump[:, 1]).clamp(min=0)
        index = (down * width + across).flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
        x = x.flatten(2).gather(2, index).view_as(x)
    return blur(x, sigma)


def motion_blur(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """One-sided Gaussian along a direction within 45 degrees of the horizontal."""
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[s]
    return streak(x, math.pi / 4 * (2 * random.uniform(()).to(x) - 1), radius, sigma)


def zoom_blur(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """Mean of x and its enlargements by 1.00, 1.01, ... up to 1.05 to 1.25."""
    factors = 1 + 0.01 * torch.arange((6, 11, 16, 21, 26)[s])
    return (x + sum(zoom(x, float(f)) for f in factors)) / (len(factors) + 1)


def snow(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """Flakes, enlarged and streaked, over a whitened image."""
    mean, spread, larger, threshold, radius, sigma, keep = (
        (0.1, 0.2, 1.0, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[s]
    layer = zoom(mean + spread * random.normal((1, *x.shape[2:])).to(x), larger)
    layer = layer.where(layer >= threshold, 0).clamp(max=1)
    layer = streak(layer, math.pi * (0.25 + 0.5 * random.uniform(()).to(x)), radius, sigma)
    grey = x.mean(dim=1, keepdim=True)
    return keep * x + (1 - keep) * torch.maximum(x, 1.5 * grey + 0.5) + layer + layer.flip(2, 3)


def fog(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """x plus a cloud, back to the brightest value. Differs: noise summed over scales for the plasma fractal."""
    thickness, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[s]
    cloud = torch.zeros_like(x[:, :1])
    for level in range(math.ceil(math.log2(max(*x.shape[2:], 2))) + 1):
        noise = random.uniform((1, 2**level + 1, 2**level + 1)).to(x)
        noise = interpolate(noise, x.shape[2:], mode="bilinear", align_corners=True)
        cloud = cloud + decay**-level * (2 * noise - 1)
    low, high = cloud.amin(dim=(1, 2, 3), keepdim=True), cloud.amax(dim=(1, 2, 3), keepdim=True)
    top = x.amax(dim=(1, 2, 3), keepdim=True)
    return (x + thickness * (cloud - low) / (high - low).clamp(min=1e-6)) * top / (top + thickness)


def brightness(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """HSV value plus a constant; the channel itself where there is but one."""
    more = (0.05, 0.1, 0.15, 0.2, 0.3)[s]
    if x.shape[1] != 3:
        return x + more
    hue, saturation, value = hsv(x)
    return rgb(hue, saturation, (value + more).clamp(max=1))


def contrast(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """Towards the mean of the channel."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return mean + (0.75, 0.5, 0.4, 0.3, 0.15)[s] * (x - mean)


def saturate(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """HSV saturation times a factor plus a constant."""
    if x.shape[1] != 3:
        return x
    factor, more = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))[s]
    hue, saturation, value = hsv(x)
    return rgb(hue, (factor * saturation + more).clamp(0, 1), value)


def elastic(x: Tensor, random: RowRandom, s: int) -> Tensor:
    """A random affine map of three points, then a smooth random flow."""
    strength, smooth, jitter = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[s]
    corners = x.new_tensor([[2, 2, 3], [2, -2, 3], [-2, -2, 3]]) / 3  # a third of the side off the centre; grid spans 2
    moved = corners[:, :2] + 2 * jitter * (2 * random.uniform((3, 2)).to(x) - 1)
    theta = (torch.linalg.inv(corners) @ moved).mT
    x = grid_sample(
        x, affine_grid(theta, list(x.shape), align_corners=False), padding_mode="reflection", align_corners=False
    )
    if not strength:
        return x
    flow = blur(2 * random.uniform((2, *x.shape[2:])).to(x) - 1, smooth * x.shape[3])
    return warp(x, strength * flow)


def pixelate(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """Down to 95 to 65 % of the size by areas, and back by nearest neighbours."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[s]
    small = interpolate(x, [max(int(share * side), 1) for side in x.shape[2:]], mode="area")
    return interpolate(small, x.shape[2:], mode="nearest-exact")


def jpeg(x: Tensor, _random: RowRandom, s: int) -> Tensor:
    """Quality 80 to 40; channel by channel where there are not three. A codec takes one picture at a time."""
    colour = x.shape[1] == 3
    pictures = x.movedim(1, -1) if colour else x.flatten(0, 1)
    quality = (80, 65, 58, 50, 40)[s]
    coded = [_through_jpeg(picture, quality) for picture in pictures.mul(255).round().to("cpu", torch.uint8)]
    back = torch.stack(coded) / 255 if coded else pictures
    return (back.movedim(-1, 1) if colour else back.view(x.shape)).to(x)


def _through_jpeg(picture: Tensor, quality: int) -> Tensor:
    """One picture, (H, W) or (H, W, 3) in 0..255, written and read again."""
    from numpy import array
    from PIL import Image

    with BytesIO() as file:
        Image.fromarray(picture.numpy()).save(file, "JPEG", quality=quality)
        with Image.open(file) as read:
            return torch.from_numpy(array(read)).float()


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian-noise": gaussian_noise,
    "shot-noise": shot_noise,
    "impulse-noise": impulse_noise,
    "speckle-noise": speckle_noise,
    "gaussian-blur": gaussian_blur,
    "defocus-blur": defocus_blur,
    "glass-blur": glass_blur,
    "motion-blur": motion_blur,
    "zoom-blur": zoom_blur,
    "snow": snow,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "saturate": saturate,
    "elastic": elastic,
    "pixelate": pixelate,
    "jpeg": jpeg,
}


def blur(x: Tensor, sigma: float, *, half: int | None = None) -> Tensor:
    """Gaussian of `sigma` pixels, cut at 4 sigma (or `half` pixels) and at the image."""
    from torchvision.transforms.functional import gaussian_blur as smooth

    half = min(math.ceil(4 * sigma) if half is None else half, x.shape[2] - 1, x.shape[3] - 1)
    return smooth(x, [2 * half + 1] * 2, [sigma] * 2) if half > 0 else x


def zoom(x: Tensor, factor: float) -> Tensor:
    """The middle of an image, enlarged."""
    theta = x.new_tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).expand(len(x), -1, -1)
    at = affine_grid(theta, list(x.shape), align_corners=False)
    return grid_sample(x, at, padding_mode="border", align_corners=False)


def streak(x: Tensor, angle: Tensor, radius: int, sigma: float) -> Tensor:
    """Mean over shifts by 0, 1, ... 2 radius pixels (at most 4 sigma) along `angle` (B,), radians, by a Gaussian."""
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(1 + min(2 * radius, math.ceil(4 * sigma)))]
    direction = torch.stack([angle.cos() / x.shape[3], angle.sin() / x.shape[2]], dim=1)  # share of the side
    total = torch.zeros_like(x)
    for i, weight in enumerate(weights):
        flow = (i * direction)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        total = total + weight / sum(weights) * warp(x, flow)
    return total
