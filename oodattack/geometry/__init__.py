"""Norms: projections onto balls, steepest directions, random points. Knows nothing of detectors or threat models."""

from oodattack.geometry.balls import (
    DUAL,
    PROJECT,
    nearest_allowed,
    norm_of,
    project_l1,
    project_l2,
    project_linf,
    project_roughly,
    project_then_clamp,
    wide,
    widest,
)
from oodattack.geometry.patch import patch_side, project_patch_then_clamp
from oodattack.geometry.row_random import RowRandom, ball, row_random, sphere
from oodattack.geometry.steepest import STEEPEST, free, steepest_l1, steepest_l2, steepest_linf, uphill

__all__ = [
    "DUAL",
    "PROJECT",
    "STEEPEST",
    "RowRandom",
    "ball",
    "free",
    "nearest_allowed",
    "norm_of",
    "patch_side",
    "project_l1",
    "project_l2",
    "project_linf",
    "project_patch_then_clamp",
    "project_roughly",
    "project_then_clamp",
    "row_random",
    "sphere",
    "steepest_l1",
    "steepest_l2",
    "steepest_linf",
    "uphill",
    "wide",
    "widest",
]
