"""Data sets that come as folders of pictures: ImageNet, textures, Omniglot, the archives of the OOD literature."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from oodattack.data.dataset import Dataset, Opened, Request
from oodattack.data.folders import all_below, classes, leaves, subfolders
from oodattack.data.gather import Pictures, unread
from oodattack.data.missing import home_of, missing

ODIN = "https://github.com/facebookresearch/odin"
MOS = "https://github.com/deeplearning-wisc/large_scale_ood"
OPENOOD = "https://github.com/Jingkang50/OpenOOD"
LARGE = "resize-256-crop-224"


class Archive(NamedTuple):
    """A published folder.

    Attributes:
        title: what to download.
        page: where to find it.
        folders: part -> folder below ROOT or ROOT/NAME.
        description: what it shows.
        list: how its pictures and labels are found.
        protocol: of pictures of different sizes; see `Dataset`.
    """

    title: str
    page: str
    folders: Mapping[str, str]
    description: str
    list: Callable[[Path, str, str], Pictures] = all_below
    protocol: str | None = None


def test(folder: str) -> Mapping[str, str]:
    """A set that is "test" as a whole."""
    return MappingProxyType({"test": folder})


def as_in_train(folder: Path, name: str, source: str) -> Pictures:
    """`classes`, numbered as in the folder `train` beside `folder`."""
    return classes(folder, name, source, known=subfolders(folder.parent / "train"))


ARCHIVES: dict[str, Archive] = {
    "imagenet": Archive(
        "torchvision.datasets.ImageNet",
        "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
        MappingProxyType({"test": "val", "train": "train"}),
        "1000 classes of objects; the validation pictures, 50000",
        list=as_in_train,
        protocol=LARGE,
    ),
    "textures": Archive(
        "torchvision.datasets.DTD",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        test("dtd/dtd/images"),
        "47 classes of textures, all three splits of dtd, 5640",
        list=classes,
        protocol=LARGE,
    ),
    "omniglot": Archive(
        "torchvision.datasets.Omniglot",
        "https://github.com/brendenlake/omniglot",
        MappingProxyType({"test": "omniglot-py/images_evaluation", "train": "omniglot-py/images_background"}),
        "handwritten characters of 50 alphabets, 105 x 105 black and white, 13180 of 32460",
        list=leaves,
    ),
    "tiny-imagenet": Archive(
        "tiny-imagenet-200.zip",
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        test("tiny-imagenet-200/val/images"),
        "200 classes of ImageNet, 64 x 64, validation pictures without labels, 10000",
    ),
    "tiny-imagenet-crop": Archive("Imagenet.tar.gz", ODIN, test("Imagenet"), "36 x 36 crops of ODIN, 10000"),
    "tiny-imagenet-resize": Archive(
        "Imagenet_resize.tar.gz", ODIN, test("Imagenet_resize"), "ImageNet shrunk to 32 x 32 by ODIN, 10000"
    ),
    "lsun-crop": Archive("LSUN.tar.gz", ODIN, test("LSUN"), "scenes, 36 x 36 crops of ODIN, 10000"),
    "lsun-resize": Archive("LSUN_resize.tar.gz", ODIN, test("LSUN_resize"), "scenes shrunk to 32 x 32 by ODIN, 10000"),
    "isun": Archive("iSUN.tar.gz", ODIN, test("iSUN"), "scenes shrunk to 32 x 32 by ODIN, 8925"),
    "inaturalist-mos": Archive(
        "iNaturalist.tar.gz",
        MOS,
        test("iNaturalist"),
        "plants that ImageNet lacks, picked for MOS, 10000",
        protocol=LARGE,
    ),
    "sun-mos": Archive(
        "SUN.tar.gz", MOS, test("SUN"), "scenes that ImageNet lacks, picked for MOS, 10000", protocol=LARGE
    ),
    "places-mos": Archive(
        "Places.tar.gz", MOS, test("Places"), "places that ImageNet lacks, picked for MOS, 10000", protocol=LARGE
    ),
    "ssb-hard": Archive("ssb_hard", OPENOOD, test("ssb_hard"), "classes close to ImageNet's; near OOD", protocol=LARGE),
    "ninco": Archive("ninco", OPENOOD, test("ninco"), "no ImageNet class objects, checked by hand", protocol=LARGE),
    "openimage-o": Archive("openimage_o", OPENOOD, test("openimage_o"), "OpenImages without ImageNet", protocol=LARGE),
    "notmnist": Archive("notmnist", OPENOOD, test("notmnist"), "letters A to J in many typefaces, grey"),
}


def row(name: str) -> Dataset:
    """The line of the registry."""
    archive = ARCHIVES[name]
    source = f"{archive.title.removeprefix('torchvision.datasets.')}, {archive.page}"
    return Dataset(
        name,
        source,
        archive.description,
        lambda ask: load(name, source, ask),
        tuple(archive.folders),
        own_format=True,
        protocol=archive.protocol,
        same_classes=archive.list is not leaves,
    )


def load(name: str, source: str, ask: Request) -> Opened:
    """List the pictures of a part.

    Raises:
        ValueError: its folder is not below --data-root, or has no pictures.
    """
    archive = ARCHIVES[name]
    folder = archive.folders[ask.part]
    home = home_of(name, folder, ask.root)
    if home is None:
        raise missing(name, archive.title, archive.page, folder, ask.root)
    return unread(archive.list(home / folder, name, f"{source}, {ask.part}"))
