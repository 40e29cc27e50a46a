"""Data sets by name, start images of attacks, and what an image is: float32 (N, C, H, W) in [0, 1]."""

from oodattack.data.groups import GROUPS, expand
from oodattack.data.images import Images, check_images, subset
from oodattack.data.overlap import overlap, overlaps
from oodattack.data.protocols import PROTOCOLS, Protocol
from oodattack.data.registry import DATASETS, Dataset, load
from oodattack.data.starts import START_PICTURES, start_images

__all__ = [
    "DATASETS",
    "GROUPS",
    "PROTOCOLS",
    "START_PICTURES",
    "Dataset",
    "Images",
    "Protocol",
    "check_images",
    "expand",
    "load",
    "overlap",
    "overlaps",
    "start_images",
    "subset",
]
