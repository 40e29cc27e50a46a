"""The table of detectors as the contract tests go through it.

Rows that train a model of their own on the images take half a minute at their full size. `ROWS` has them small: the
same fit function and seed, and fewer steps and units; everything else is the table's own row. `test_rows.py` checks
that, and builds the full-sized ones once, on images of a few pixels.
"""

from importlib.util import find_spec

import pytest

from oodattack.detectors import DETECTORS, GlowPNG, fit_auto_encoder, fit_ccu, fit_glow
from oodattack.models.exits import ExitNet
from oodattack.models.small import SmallResNet

SIZES = {  # of what a row fits, in place of the defaults
    "auto-encoder": {"code": 8, "width": 2, "steps": 30},
    "glow": {"steps": 1, "hidden": 4},
    "glow-png": {"steps": 1, "hidden": 4},
    "ccu": {"components": 4},
}
SMALL = {
    "auto-encoder": lambda _, fit: fit_auto_encoder(fit.x, seed=0, **SIZES["auto-encoder"]),
    "glow": lambda _, fit: fit_glow(fit.x, seed=0, **SIZES["glow"]),
    "glow-png": lambda _, fit: GlowPNG(fit_glow(fit.x, seed=0, **SIZES["glow-png"]).flow),
    "ccu": lambda net, fit: fit_ccu(net, fit.x, seed=0, **SIZES["ccu"]),
}
ROWS = {name: row._replace(build=SMALL.get(name, row.build)) for name, row in DETECTORS.items()}
PACKAGES = {"glow": "normflows", "glow-png": "normflows"}  # what a row needs beside the package's own requirements
NETWORKS = {"mood": lambda channels: ExitNet(channels, 3, width=2, growth=1)}  # what a row needs in place of the usual


def network_for(name, channels):
    """A network of random weights that the row can stand on: 3 classes, images of 32 x 32 pixels."""
    return NETWORKS.get(name, lambda channels: SmallResNet(channels, 3, width=4))(channels)


def param(name):
    """A test's parameter, skipped where a package is missing."""
    package = PACKAGES.get(name)
    missing = package is not None and find_spec(package) is None
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"{package} is not installed"))


def every(names=ROWS):
    """Parametrise a test over rows of the table, by name."""
    return pytest.mark.parametrize("name", [param(name) for name in names])
