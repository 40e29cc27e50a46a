"""What no attack can beat: bounds of scores on a ball, and what follows from them for AUROC.

    bounds = score_bounds(detector, x, norm="linf", eps=0.01)
    found = certify(detector, x_id, x_ood, norm="linf", eps=0.01, sides="both")

`SCORES` names the detectors that have bounds. Networks are made of linear maps, convolutions, batch norms, ReLUs,
pools, sums and rearrangements. Any detector whatever has them once it is `Smoothed`, in l2 and but for a probability.
"""

from oodattack.bounds.certify import Certified, Uncertified, certify
from oodattack.bounds.lipschitz import lipschitz_bounds
from oodattack.bounds.no_bounds import NoBounds
from oodattack.bounds.row_radius import row_radius
from oodattack.bounds.sandwich import Guarantee, guarantee, undecided_share, worst_scores
from oodattack.bounds.score_bounds import ScoreBounds, score_bounds
from oodattack.bounds.smoothed import Smoothed, smoothed_bounds
from oodattack.bounds.table import SCORES

__all__ = [
    "SCORES",
    "Certified",
    "Guarantee",
    "NoBounds",
    "ScoreBounds",
    "Smoothed",
    "Uncertified",
    "certify",
    "guarantee",
    "lipschitz_bounds",
    "row_radius",
    "score_bounds",
    "smoothed_bounds",
    "undecided_share",
    "worst_scores",
]
