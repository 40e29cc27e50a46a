"""Data sets by name, start images of attacks, and what an image is: float32 (N, C, H, W) in [0, 1]."""

from oodattack.data.images import Images, check_images, subset
from oodattack.data.registry import DATASETS, Dataset, load
from oodattack.data.starts import START_PICTURES, start_images

__all__ = ["DATASETS", "START_PICTURES", "Dataset", "Images", "check_images", "load", "start_images", "subset"]
