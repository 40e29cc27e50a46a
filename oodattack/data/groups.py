"""Near and far OOD sets of an ID set, and the OOD sets of the papers, by one name."""

from collections.abc import Sequence

# what makes a group a group
GROUP_SOURCES: dict[str, str] = {
    "near": "OpenOOD v1.5, arXiv:2306.09301, near-OOD; digits: this package",
    "far": "OpenOOD v1.5, arXiv:2306.09301, far-OOD; digits: this package",
    "odin": "ODIN, arXiv:1706.02690, code facebookresearch/odin",
    "gaia": "GAIA, arXiv:2311.09620, code JGEthanChen/GAIA-OOD; S&I uses the same",
    "gq": "Gradient Quotient, section 3.1, and evaluation code ajevnisek/MOOD",
    "greg": "GReg, code o4lc/Greg-OOD",
}

# Whole sets: OpenOOD uses lists of pictures that leave out what overlaps with the ID classes, GReg 10000 of each.
CIFAR: dict[str, list[str]] = {
    "far": ["mnist", "svhn", "textures", "places365"],
    "odin": [
        "tiny-imagenet-crop", "tiny-imagenet-resize", "lsun-crop", "lsun-resize", "isun", "noise", "gaussian-noise",
    ],
    "gaia": ["svhn", "lsun-crop", "tiny-imagenet-crop", "places-mos", "textures"],
    "gq": [
        "mnist", "kmnist", "fashion-mnist", "lsun-crop", "svhn", "textures", "stl10", "places365", "isun",
        "lsun-resize",
    ],
    "greg": ["textures", "svhn", "places365", "lsun-crop", "lsun-resize", "isun"],
}  # fmt: skip
IMAGENET: dict[str, list[str]] = {
    "near": ["ssb-hard", "ninco"],
    "far": ["inaturalist-mos", "textures", "openimage-o"],
}
GROUPS: dict[str, dict[str, list[str]]] = {
    "digits": {"near": ["digits-6-9"], "far": ["photos", "noise", "spirals", "checkerboards"]},
    "cifar-10": {"near": ["cifar-100", "tiny-imagenet"], **CIFAR},
    "cifar-100": {"near": ["cifar-10", "tiny-imagenet"], **CIFAR},
    "imagenet-200": IMAGENET,
    "imagenet": {
        **IMAGENET,
        "gaia": ["inaturalist-mos", "sun-mos", "places-mos", "textures"],
        "greg": ["textures", "places-mos", "sun-mos", "inaturalist-mos"],
    },
}


def expand(names: Sequence[str], *, id_name: str) -> list[str]:
    """Names of data sets, groups written out, each once and in order.

    Args:
        names: data sets as `load` takes them; a group of `GROUPS` for this ID set, such as "near"; or GROUP:ID, such as
            "near:cifar-10".
        id_name: the ID set.

    Raises:
        ValueError: a group that its ID set does not have.
    """
    return list(dict.fromkeys(name for asked in names for name in members(asked, id_name)))


def members(name: str, id_name: str) -> list[str]:
    """The sets behind one name; a name that is no group stands for itself."""
    group, colon, of = name.partition(":")
    wanted = of if colon else id_name
    if group not in GROUP_SOURCES or (wanted not in GROUPS and group not in ("near", "far")):
        return [name]
    if wanted not in GROUPS:
        known, first = ", ".join(GROUPS), next(of for of, groups in GROUPS.items() if group in groups)
        raise ValueError(f"`{name}` must go with one of the ID sets {known}, got {wanted!r}. Write {group}:{first}.")
    if group not in GROUPS[wanted]:
        known = ", ".join(GROUPS[wanted])
        raise ValueError(
            f"`{name}` must be one of the groups {known} of {wanted}, got another. Name the sets one by one."
        )
    return GROUPS[wanted][group]
