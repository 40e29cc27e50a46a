"""What came out of a comparison, in words that every format shares."""

from collections.abc import Iterator

import numpy as np

from oodattack.gate.baseline import Baseline, Cell
from oodattack.gate.compare import CLEAN, POWER, Check, Comparison
from oodattack.gate.family import hurdle, power

SOME = 3  # names in a line
FEW = 30  # images a side below which standard errors are rough themselves


def told(check: Check) -> str:
    """The numbers of a check."""
    if check.drop == check.error == 0:
        return f"AUROC {check.old:.3f}, unchanged"
    p = f", p {check.p:.2g}" if check.regression else ""
    change = f"{'drop' if check.drop > 0 else 'gain'} {abs(check.drop):.3f}"
    return f"AUROC {check.old:.3f} -> {check.new:.3f}, {change} (standard error {check.error:.4f}{p})"


def doubt(cell: Cell) -> str:
    """Why a cell fails whose attack is inconclusive now."""
    why = f": {cell.reason}" if cell.reason else ""
    return (
        f"AUROC {cell.attacked.auroc:.3f} is no evidence, the attack is inconclusive and was not in the baseline{why}"
    )


def headline(found: Comparison) -> str:
    """How many were compared, and how many are worse."""
    kinds = [sum((c.threat == CLEAN) == clean for c in found.checks) for clean in (True, False)]
    bad = len(found.regressions)
    verdict = f"{bad} regression{'s' * (bad != 1)}" if bad else "no regression"
    verdict += f", {len(found.unsure)} inconclusive now," if found.unsure else ""
    return (
        f"{verdict} in {kinds[0]} clean and {kinds[1]} attacked AUROCs (more than {found.max_drop:g} lost, "
        f"and noise alone would do that in less than {100 * found.alpha:.3g} % of builds)"
    )


def test_used(found: Comparison) -> str:
    """Which test, on what."""
    paired = sum(c.paired for c in found.checks)
    if paired == len(found.checks):
        return "DeLong's test, paired: both scored the same images"
    if not paired:
        return "unpaired test: no scores of single images are known, so most real drops pass"
    return f"DeLong's test, paired, for {paired} AUROCs; unpaired for {len(found.checks) - paired} without scores"


def notes(found: Comparison) -> Iterator[str]:
    """What else is not as in the baseline."""
    new, old = found.new, found.old
    if found.added:
        yield f"not in the baseline, and let pass: {len(found.added)} cells; --update adds them"
    changed = [name for name, digest in old.networks.items() if new.networks.get(name, digest) != digest]
    if changed:
        yield f"other weights than in the baseline: {', '.join(changed)}"
    for name in ("oodattack", "torch"):
        was, now = old.versions.get(name), new.versions.get(name)
        if was != now:
            yield f"{name} {was} -> {now}: a difference may be its own"


def left_out(new: Baseline, old: Baseline | None) -> Iterator[str]:
    """What a baseline does not have that the one had whose place it takes."""
    now = {cell.key for cell in new.cells}
    if gone := [cell.where for cell in (old.cells if old else []) if cell.key not in now]:
        yield f"not in it any more, and not compared from now on: {len(gone)} cells ({some(gone)})"


def some(names: list[str]) -> str:
    """The first of many."""
    return ", ".join(names[:SOME]) + (", ..." if names[SOME:] else "")


def warnings(found: Comparison) -> Iterator[str]:
    """What makes the answer weaker than it looks."""
    if any(not c.paired for c in found.checks):
        yield test_used(found)
    doubtful = found.doubtful
    for cell in doubtful if found.accept_inconclusive else []:  # else they fail
        yield (
            f"{cell.where}: the attack is inconclusive now, and was not in the baseline; "
            "a higher AUROC may be a search that fails"
        )
    if still := [c for c in found.new.cells if c.verdict == "inconclusive" and c not in doubtful]:
        names = some([c.where for c in still])
        yield (
            f"the attack is inconclusive in {len(still)} of {len(found.new.cells)} cells, as it was in the baseline or "
            f"new to it ({names}): what is compared there is no evidence of robustness"
        )
    sizes = [n for c in found.old.cells for n in (c.attacked.n_id, c.attacked.n_ood)]
    if min(sizes, default=FEW) < FEW:
        yield f"only {min(sizes)} images in a set: fewer than {FEW} make the standard errors themselves uncertain"
    if weak := found.weak:
        yield (
            f"too few images for the margin: a true drop of {2 * found.max_drop:g} is missed more often than "
            f"{100 * (1 - POWER):.0f} % of the time in {len(weak)} of {len(found.checks)} AUROCs, worst in "
            f"{weak[0].where} (caught {100 * weak[0].power:.0f} %); {remedy(found)}"
        )


def remedy(found: Comparison) -> str:
    """How many times as many images would do, if the noise stays what it is."""
    errors = np.array([c.error for c in found.checks])
    for times in (1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128):
        less = errors / times**0.5
        caught = power(2 * found.max_drop, less, found.max_drop, hurdle(less, found.max_drop, found.alpha))
        if caught.min() >= POWER:
            return f"about {times:g} times as many images, or a larger --max-drop, would do"
    return "take a larger --max-drop"
