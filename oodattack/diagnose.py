"""Attack-failure indicators and what they allow one to say: broken, holds or inconclusive."""

from typing import Literal, NamedTuple

Verdict = Literal["broken", "holds", "inconclusive"]

LEFT = 0.75  # share of the clean advantage over chance below which a detector counts as broken
ZERO_GRADIENTS = 0.1  # share of queries
STUCK = 0.5  # share of rows on which nothing beat the clean input
RANK_CORRELATION = 0.9


class Indicators(NamedTuple):
    """How an attack went. None: not measured in this run.

    Attributes:
        white_box: the search used gradients.
        zero_gradient_share: share of gradients that were exactly zero.
        non_finite_share: share of queries whose value or gradient was not finite.
        clean_best_share: share of attacked rows on which nothing beat the clean input; None for matching.
        surrogate_rank_correlation: Spearman correlation of surrogate and score over clean ID and OOD inputs; None
            without a surrogate.
        random_auroc: AUROC left by random search at the same radius.
        full_box_auroc: AUROC left when the attacker may use the whole box.
        repeatable: scoring the same ID inputs twice gave the same scores.
        row_independent: so did scoring one of them alone.
    """

    white_box: bool
    zero_gradient_share: float | None = None
    non_finite_share: float = 0.0
    clean_best_share: float | None = None
    surrogate_rank_correlation: float | None = None
    random_auroc: float | None = None
    full_box_auroc: float | None = None
    repeatable: bool = True
    row_independent: bool = True


def failures(attacked: float, found: Indicators) -> list[str]:
    """Reasons to distrust a high attacked AUROC, in words. Empty: none was found."""
    reasons = []
    if not found.white_box:
        reasons.append("the search used no gradient")
    if not found.repeatable:
        reasons.append("the score changes from call to call")
    if not found.row_independent:
        reasons.append("the score of a row depends on its batch")
    if (found.zero_gradient_share or 0) > ZERO_GRADIENTS:
        reasons.append(f"{found.zero_gradient_share:.0%} of gradients were zero")
    if found.non_finite_share > 0:
        reasons.append(f"{found.non_finite_share:.1%} of queries were not finite")
    if (found.clean_best_share or 0) > STUCK:
        reasons.append(f"nothing beat the clean input on {found.clean_best_share:.0%} of rows")
    correlation = found.surrogate_rank_correlation
    if correlation is not None and correlation < RANK_CORRELATION:
        reasons.append(f"the surrogate orders inputs unlike the score (rank correlation {correlation:.2f})")
    if found.random_auroc is not None and found.random_auroc < attacked:
        reasons.append(f"random search was stronger (AUROC {found.random_auroc:.3f})")
    if found.full_box_auroc is None:
        reasons.append("no sanity-full-box run beside it shows that the search works (add that threat)")
    elif found.full_box_auroc > 0.5:
        reasons.append(f"with the whole box the search still left AUROC {found.full_box_auroc:.3f}")
    return reasons


def verdict(clean: float, attacked: float, found: Indicators) -> tuple[Verdict, str]:
    """What the numbers allow one to say.

    Broken: a quarter of the clean advantage over chance is gone, attacked <= 0.5 + 0.75 (clean - 0.5). Holds: more is
    left and no indicator says that the search failed. Inconclusive: more is left, but an indicator does.

    Args:
        clean: AUROC before the attack.
        attacked: AUROC after it.
        found: how the search went.

    Returns:
        The verdict and its reason in words.
    """
    if clean <= 0.5:
        return "broken", f"no better than chance before any attack (AUROC {clean:.3f})"
    if attacked <= 0.5 + LEFT * (clean - 0.5):
        return "broken", f"AUROC {clean:.3f} fell to {attacked:.3f}"
    if reasons := failures(attacked, found):
        return "inconclusive", "; ".join(reasons)
    return "holds", f"AUROC {clean:.3f} fell to {attacked:.3f} and no indicator says that the search failed"
