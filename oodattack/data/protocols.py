"""What the papers do to pictures before a network sees them, by name. Normalisation belongs inside the network."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from oodattack.data.steps import Step, fit_steps, told
from oodattack.lookup import unknown

NOBODY: Mapping[str, str] = MappingProxyType({})
GAIA = "GAIA, arXiv:2311.09620 (code JGEthanChen/GAIA-OOD), and S&I"
GQ = "Gradient Quotient (evaluation code ajevnisek/MOOD)"
GREG = "GReg (code o4lc/Greg-OOD)"
OPENOOD = "OpenOOD v1.5, arXiv:2306.09301 (code Jingkang50/OpenOOD)"
ODIN = "ODIN, arXiv:1706.02690 (code facebookresearch/odin)"
LIANG = "Liang et al. 2020, arXiv:2009.08016"
SQUARE_32 = "resize-32-center-crop-32"
PADDED = "pad-2-grey-to-rgb"


class Protocol(NamedTuple):
    """A named protocol.

    Attributes:
        steps: what is done, in this order.
        source: who does it.
        instead: data set -> name of the protocol that it gets instead of `steps`.
    """

    steps: tuple[Step, ...]
    source: str
    instead: Mapping[str, str] = NOBODY


# single steps first, then what a paper does to all its sets
PROTOCOLS: dict[str, Protocol] = {
    "keep": Protocol((), "pixels as stored"),
    "resize-32": Protocol((Step("resize", 32),), f"{GQ}: STL10, Places365, LSUN and iSUN"),
    "center-crop-32": Protocol((Step("center-crop", 32),), GAIA),
    SQUARE_32: Protocol((Step("resize", 32), Step("center-crop", 32)), f"{GREG}, and {GQ}: textures"),
    "pad-2": Protocol((Step("pad", 2),), f"{GQ}: 28 x 28 to 32 x 32"),
    "grey-to-rgb": Protocol((Step("grey-to-rgb"),), "one grey channel repeated"),
    "rgb-to-grey": Protocol((Step("rgb-to-grey"),), "luminance, ITU-R BT.601-7, section 2.5.1"),
    PADDED: Protocol((Step("grey-to-rgb"), Step("pad", 2)), f"{GQ}: MNIST, KMNIST, Fashion-MNIST"),
    "resize-256-crop-224": Protocol(
        (Step("resize", 256), Step("center-crop", 224)), f"{OPENOOD}, and {GREG}: ImageNet"
    ),
    "odin-crop": Protocol((Step("center-crop", 32),), f"{ODIN}: the 36 x 36 pictures of the crop archives"),
    "resize-480": Protocol((Step("resize", (480, 480)),), f"{GAIA}: ImageNet"),
    "resize-254": Protocol((Step("resize", (254, 254)),), f"{GQ}, section 3.1 of the paper: ImageNet-30"),
    "resize-224": Protocol((Step("resize", (224, 224)),), f"{LIANG}, appendices B.1 and B.2: OCT, lung CT"),
    "resize-32x32": Protocol((Step("resize", (32, 32)),), f"{LIANG}, appendix B.3: GTSRB; it states the size only"),
    "resize-64-center-crop-64": Protocol(
        (Step("resize", 64), Step("center-crop", 64)), f"{LIANG}, section 3.2: CelebA; it states the size only"
    ),
    "gaia-cifar": Protocol(
        (Step("center-crop", 32),), f"{GAIA}: no resize, so of large pictures only the middle stays"
    ),
    "gaia-imagenet": Protocol((Step("resize", (480, 480)),), GAIA),
    "gq-cifar": Protocol(
        (Step("resize", 32),),
        GQ,
        MappingProxyType(
            {
                "mnist": PADDED,
                "kmnist": PADDED,
                "fashion-mnist": PADDED,
                "dtd": SQUARE_32,
                "textures": SQUARE_32,
            }
        ),
    ),
    "gq-imagenet-30": Protocol((Step("grey-to-rgb"), Step("resize", (254, 254))), GQ),
    "greg-cifar": Protocol(
        (),
        GREG,
        MappingProxyType(
            {"dtd": SQUARE_32, "textures": SQUARE_32, "places365": SQUARE_32, "lsun-crop": "center-crop-32"}
        ),
    ),
    "openood-cifar": Protocol((Step("grey-to-rgb"), Step("resize", 32), Step("center-crop", 32)), OPENOOD),
    "openood-imagenet": Protocol((Step("grey-to-rgb"), Step("resize", 256), Step("center-crop", 224)), OPENOOD),
}


def in_words(protocol: Protocol) -> str:
    """Its steps, and the sets that get others."""
    others = f"; others for {', '.join(protocol.instead)}" if protocol.instead else ""
    return (told(protocol.steps).removeprefix("; ") or "nothing") + others


def steps_of(protocol: str, name: str) -> tuple[Step, ...]:
    """What a protocol does to the pictures of the data set `name`.

    Raises:
        ValueError: an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, [*PROTOCOLS])
    found = PROTOCOLS[protocol]
    return PROTOCOLS[found.instead[name]].steps if name in found.instead else found.steps


def steps_in_format(own: str | None, *, channels: int | None, size: int | None) -> tuple[Step, ...]:
    """What brings pictures to a format where nobody names a protocol.

    Args:
        own: name of the set's own protocol, used where it ends in the size asked for or no size is asked for.
        channels: 1 or 3 asked for; None leaves them.
        size: pixels a side asked for: of the shorter side first, then the middle is cut out. None leaves them.
    """
    steps = () if own is None else PROTOCOLS[own].steps
    if steps and (size is None or steps[-1].size in (size, (size, size))):
        return fit_steps(channels, None) + steps
    return fit_steps(channels, size)
