"""Common corruptions: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness ...", arXiv:1903.12261.

The attacker tries one type after the other, as the worst case over types of Chen et al., ATOM, arXiv:2006.15207. The
severities are those of the authors' code for 32 x 32 images (CIFAR-10-C); lengths in pixels stay the same on others, so
larger images come off lightly. Frost is left out, because it needs photographs, and so is spatter.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from oodattack.attack import Attack, Seen
from oodattack.attacks.corruption_blurs import defocus_blur, gaussian_blur, glass_blur, motion_blur, zoom_blur
from oodattack.attacks.corruption_digital import contrast, elastic, jpeg, pixelate, saturate
from oodattack.attacks.corruption_noises import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from oodattack.attacks.corruption_weather import brightness, fog, snow
from oodattack.geometry import RowRandom
from oodattack.threat import ThreatModel

Corruption = Callable[[Tensor, RowRandom, int], Tensor]  # x (B, C, H, W), streams, severity 0..4 -> same shape

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


class State(NamedTuple):
    """How many types have been sent."""

    t: int


def corruptions(*, severity: int) -> Attack:
    """Query t is corruption number t of the clean image.

    After the last type they come again, with new random numbers where they use any: half of them use none. A search
    shorter than `CORRUPTIONS` leaves the later types out. Black box.

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
