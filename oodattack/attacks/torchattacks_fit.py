"""Whether an attack of torchattacks fits a threat model and images, and the steps its budget allows."""

from torch import Tensor

from oodattack.attacks.torchattacks_table import ATTACKS, Foreign
from oodattack.threat import ThreatModel


def steps_of_restarts(
    name: str, foreign: Foreign, threat: ThreatModel, x: Tensor, *, extra: tuple[bool, bool], crossing: bool
) -> list[int]:
    """Refuse what the attack cannot do; return the steps of each restart."""
    if threat.norm not in foreign.norms:
        fit = ", ".join(n for n, f in ATTACKS.items() if threat.norm in f.norms) or "none of torchattacks"
        rule = f"be {' or '.join(foreign.norms)} with torchattacks:{name}"
        raise ValueError(f"`norm` must {rule}, got {threat.norm!r}. Attacks for that norm: {fit}.")
    if x.ndim != 4 or min(x.shape[2:]) < foreign.side:
        rule = f"have shape (B, C, H, W) and sides >= {foreign.side} with torchattacks:{name}"
        raise ValueError(f"`x` must {rule}, got {tuple(x.shape)}. Use pgd or random-search.")
    if (name, threat.norm) == ("Square", "l2") and not all(_windows_fit(side) for side in x.shape[2:]):
        rule = "have sides that five windows fit into (8, 28, 32, 64 and 224 do) with torchattacks:Square and l2"
        raise ValueError(f"`x` must {rule}, got {tuple(x.shape)}. Use square.")
    if foreign.channels and x.shape[1] != foreign.channels:
        rule = f"have {foreign.channels} channels with torchattacks:{name}"
        raise ValueError(f"`x` must {rule}, got {x.shape[1]}. Use torchattacks:MIFGSM.")
    if threat.step_size is not None and foreign.share is None:
        raise ValueError(f"`step_size` must be absent with torchattacks:{name}, got {threat.step_size}. Drop it.")
    if threat.iterate != "best" or crossing:
        got = "a crossing" if crossing else repr(threat.iterate)
        raise ValueError(f"`iterate` must be 'best' with torchattacks, got {got}. Use an attack of this package.")
    first, each = 1 + extra[0], 1 + sum(extra)  # the clean input; the returned image, its judgement, a confirmation
    share = (threat.queries // (threat.draws or 1) - first) // threat.restarts - each
    if share < foreign.once + foreign.per_step:
        least = ((foreign.once + foreign.per_step + each) * threat.restarts + first) * (threat.draws or 1)
        raise ValueError(
            f"`queries` must be >= {least} with torchattacks:{name}, got {threat.queries} a search. Raise it."
        )
    return [(share - foreign.once) // foreign.per_step if foreign.per_step else 1] * threat.restarts


def _windows_fit(side: int) -> bool:
    """Whether the first point of their Square attack for l2, side // 5 pixels a window, stays in the image."""
    window = side // 5
    return window == 1 or (side - 5 * window) // 2 + side // window * window <= side
