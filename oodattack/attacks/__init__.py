"""How to search: a start and a step each."""

from collections.abc import Callable
from typing import NamedTuple

from oodattack.attack import Attack, Whole
from oodattack.attacks.adamax import adamax
from oodattack.attacks.affine import affine
from oodattack.attacks.apgd import apgd
from oodattack.attacks.colour import colour
from oodattack.attacks.corruptions import corruptions
from oodattack.attacks.ddn import ddn
from oodattack.attacks.fmn import fmn
from oodattack.attacks.hop_skip_jump import hop_skip_jump
from oodattack.attacks.lbfgs import lbfgs
from oodattack.attacks.nes import nes
from oodattack.attacks.pgd import pgd
from oodattack.attacks.pgd_decay import pgd_decay
from oodattack.attacks.random_search import random_search
from oodattack.attacks.rays import rays
from oodattack.attacks.recolor import recolor
from oodattack.attacks.spsa import spsa
from oodattack.attacks.square import square
from oodattack.attacks.stadv import stadv
from oodattack.attacks.user import user_attack
from oodattack.threat import OUTSIDE, ThreatModel


class Row(NamedTuple):
    """A row of the table of attacks: `make` takes the fields of the threat model that it `needs`, by name."""

    name: str
    source: str
    description: str
    make: Callable[..., Attack]
    needs: tuple[str, ...] = ()

    def build(self, threat: ThreatModel) -> Attack:
        """The search with what the threat model says of it."""
        return self.make(**{field: getattr(threat, field) for field in self.needs})


ATTACKS = {
    row.name: row
    for row in (
        Row("pgd", "arXiv:1706.06083, section 2.1", "projected steepest ascent", pgd, ("step_size",)),
        Row("apgd", "arXiv:2003.01690, Alg. 1", "momentum, step halved when a row stalls", apgd),
        Row("pgd-decay", "this package", "momentum of Auto-PGD, step falling from 2 eps to 0", pgd_decay),
        Row("adamax", "arXiv:2009.08016, Alg. 1", "Adamax on delta", adamax, ("step_size",)),
        Row("lbfgs", "this package", "L-BFGS along what binds, with bursts of momentum; for matching", lbfgs),
        Row("random-search", "floor", "independent uniform draws, no gradient", random_search),
        Row("square", "arXiv:1912.00049, Alg. 1-3", "random square windows, no gradient", square),
        Row("nes", "arXiv:1804.08598", "ascent on a gradient estimated from normal probes", nes),
        Row("spsa", "arXiv:1802.05666", "Adam on a gradient estimated from random signs", spsa),
        Row("fmn", "arXiv:2102.12827, Alg. 1", "smallest perturbation that crosses the threshold", fmn),
        Row("ddn", "arXiv:1811.09600, Alg. 1", "the same in l2, direction and norm apart", ddn),
        Row("rays", "arXiv:2006.12792", "the same in linf from decisions alone: sign flips", rays),
        Row(
            "hop-skip-jump",
            "arXiv:1904.02144",
            "the same from decisions alone: gradient estimated at the boundary",
            hop_skip_jump,
        ),
        Row(
            "corruptions",
            "arXiv:1903.12261",
            "worst of the common corruptions of one severity",
            corruptions,
            ("severity",),
        ),
        Row("affine", "arXiv:1712.02779", "worst rotation and shift, no gradient", affine, ("limit",)),
        Row(
            "colour",
            "in the spirit of ColorJitter",
            "worst hue, saturation, brightness and contrast, no gradient",
            colour,
            ("limit",),
        ),
        Row("stadv", "arXiv:1801.02612", "ascent on a flow field", stadv, ("limit",)),
        Row("recolor", "arXiv:1906.00001", "ascent on one map of colours", recolor, ("limit",)),
    )
}


def outside() -> list[dict[str, str]]:
    """name, description and source of the attacks of torchattacks, as they are named in a threat model."""
    from oodattack.attacks.torchattacks_adapter import names, remark

    return [
        {
            "name": f"{OUTSIDE}{name}",
            "description": "; ".join(filter(None, ("on the score itself", remark(name)))),
            "source": "torchattacks",
        }
        for name in names()
    ]


def find_attack(threat: ThreatModel) -> Attack | Whole:
    """The search that a threat model names.

    Raises:
        ValueError: torchattacks has no such attack, or user code gives none.
    """
    if threat.by_user_code:
        return user_attack(threat.attack)
    if threat.attack.startswith(OUTSIDE):
        from oodattack.attacks.torchattacks_adapter import from_torchattacks

        return from_torchattacks(threat.attack.removeprefix(OUTSIDE))
    return ATTACKS[threat.attack].build(threat)


__all__ = [
    "ATTACKS",
    "Row",
    "adamax",
    "affine",
    "apgd",
    "colour",
    "corruptions",
    "ddn",
    "find_attack",
    "fmn",
    "hop_skip_jump",
    "lbfgs",
    "nes",
    "outside",
    "pgd",
    "pgd_decay",
    "random_search",
    "rays",
    "recolor",
    "spsa",
    "square",
    "stadv",
    "user_attack",
]
