"""What the attacker may do, as data. Every run reads it from `threat_models/`."""

from oodattack.threat.files import own_name, preset_folder, presets, read_threat
from oodattack.threat.group import (
    Suite,
    Sweep,
    Threat,
    check_restarts,
    each_radius,
    file_hash,
    limits_of,
    members_of,
    shares_queries,
)
from oodattack.threat.model import ON_A_SCORE, OUTSIDE, STARTS, ThreatModel
from oodattack.threat.strict import Misfit, validated
from oodattack.threat.wanted import covers, direction, in_a_ball, in_short, other_goal, whole_box

__all__ = [
    "ON_A_SCORE",
    "OUTSIDE",
    "STARTS",
    "Misfit",
    "Suite",
    "Sweep",
    "Threat",
    "ThreatModel",
    "check_restarts",
    "covers",
    "direction",
    "each_radius",
    "file_hash",
    "in_a_ball",
    "in_short",
    "limits_of",
    "members_of",
    "other_goal",
    "own_name",
    "preset_folder",
    "presets",
    "read_threat",
    "shares_queries",
    "validated",
    "whole_box",
]
