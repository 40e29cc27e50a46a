"""Training recipes, the one loop that runs them, checkpoints, and trained networks that are kept."""

from oodattack.train.cache import Setting, Trained, trained
from oodattack.train.curve import curve_png
from oodattack.train.loop import Fitted, fit
from oodattack.train.measure import HeldOut
from oodattack.train.recipe import Recipe, check_recipe
from oodattack.train.recipes import PAPERS, RECIPES, find_recipe
from oodattack.train.record import checked_record, read_record, write_network
from oodattack.train.training_set import TrainingSet

__all__ = [
    "PAPERS",
    "RECIPES",
    "Fitted",
    "HeldOut",
    "Recipe",
    "Setting",
    "Trained",
    "TrainingSet",
    "check_recipe",
    "checked_record",
    "curve_png",
    "find_recipe",
    "fit",
    "read_record",
    "trained",
    "write_network",
]
