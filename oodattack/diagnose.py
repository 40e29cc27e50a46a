"""Attack-failure indicators and what they allow one to say: broken, holds or inconclusive.

In the spirit of Carlini et al., "On Evaluating Adversarial Robustness", arXiv:1902.06705, and of Pintor et al.,
"Indicators of Attack Failure", NeurIPS 2022, arXiv:2106.09947; the thresholds are this package's own.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

Verdict = Literal["broken", "holds", "inconclusive"]

LEFT = 0.75  # share of the clean lead over chance, or of the rejected OOD inputs, that a broken detector has left
TURNED = 0.4  # clean AUROC; of 20 images a side a score that knows nothing has less one time in seven
ZERO_GRADIENTS = 0.1  # share of queries: one step in ten that went nowhere
STUCK = 0.5  # share of rows on which nothing beat the clean input
RISING = 0.75  # share of rows that a working search improves; the rest may start at a corner that is already best
RANK_CORRELATION = 0.9
BEATEN = 0.01  # AUROC by which a rival must be stronger: less is luck of the random starts
UNFINISHED = 0.01  # AUROC still lost in the second half of the queries: twice as many would find as much again
MISLED = 0.2  # share of pairs: of honest scores at most 1 in 8, of plateaus with a slope of their own 9 in 10
UNEXPLAINED = 0.1  # share of pairs: of smooth scores none; 1 in 8 where an eighth of the images lie beyond a step
SPREAD = 0.05  # AUROC between restarts: more means that the result hangs on the start


class Indicators(NamedTuple):
    """How an attack went. None: not measured in this run, and no reason for or against.

    Attributes:
        white_box: the search used gradients, one at least.
        zero_gradient_share: share of gradients that were exactly zero.
        non_finite_share: share of queries whose value or gradient was not finite.
        clean_best_share: share of attacked rows on which nothing beat the clean input; None for matching.
        surrogate_rank_correlation: Spearman correlation of surrogate and score over clean ID and OOD inputs; None
            without a surrogate.
        random_auroc: AUROC left by random search at the same radius.
        full_box_auroc: AUROC left when the attacker may use the whole box.
        repeatable: scoring the same ID inputs twice gave the same scores.
        row_independent: so did scoring one of them alone; None where two calls did not, which shows nothing of rows.
        misled_share: see `between.misled_share`, between the ID images and this OOD set, of what the search follows.
            Not asked of matching, nor where the search broke the detector; nor are `unexplained_share`, `toward_lead`
            and `denied_auroc`.
        unexplained_share: see `between.unexplained_share`, of the same; not asked of a declared surrogate.
        gradient_trouble: what `probe.trouble` says of the score's gradient on the ID images and this OOD set; not asked
            where a surrogate stands in for the score.
        rising_share: share of attacked rows whose search ended above the loss of its own first step (not of the clean
            input), rows that were finished there included.
        unfinished_drop: AUROC left after half of the queries minus AUROC left at the end.
        white_box_auroc: AUROC left by the gradient search on the score itself, to compare rivals with; None where that
            is the attacked AUROC, as for anything but a suite.
        black_box_auroc: lowest AUROC left by a black-box search within the same limits.
        smaller_eps_auroc: lowest AUROC left by a threat of smaller radius, same norm and sides.
        transfer_auroc: lowest AUROC left, within the same limits, by a search on another score.
        rival_auroc: lowest AUROC left by any other threat of the run within the same limits, suites included.
        toward_lead: AUROC left minus AUROC left by moves straight toward the other set within the same limits, which
            ask no gradient, both of a few rows; see `evaluation.toward`.
        denied_auroc: AUROC if the attacked scores went on as far as the part of their slope could take them that
            differences show and the gradient does not; see `Probe.denied`.
        unsettled_auroc: AUROC after ten times as many queries, at the pace of the second half; None where the median
            row gained less than 40 % there, and of searches of fewer than 10 queries.
        shortfall: what the search lacks, by design or for want of a gradient, in words after "the search"; None where
            nothing.
        restart_spread: AUROC left by the weakest restart minus that of the strongest; of a suite that shares its
            queries, between the first and the last turn of its first member, of the rows that had several.
        other_goal: what the search was after in place of the lowest score (or highest, for ID inputs), in words; None
            where nothing else.
        accepted_before: share of OOD inputs that the deployed threshold accepts before any attack, for a search that is
            after that threshold; None for others.
        accepted_after: the same with the smallest perturbations found.
        id_against_id: it started from ID images, which no score is asked to tell from ID images.
    """

    white_box: bool
    zero_gradient_share: float | None = None
    non_finite_share: float = 0.0
    clean_best_share: float | None = None
    surrogate_rank_correlation: float | None = None
    random_auroc: float | None = None
    full_box_auroc: float | None = None
    repeatable: bool = True
    row_independent: bool | None = True
    misled_share: float | None = None
    unexplained_share: float | None = None
    gradient_trouble: str | None = None
    rising_share: float | None = None
    unfinished_drop: float | None = None
    white_box_auroc: float | None = None
    black_box_auroc: float | None = None
    smaller_eps_auroc: float | None = None
    transfer_auroc: float | None = None
    rival_auroc: float | None = None
    toward_lead: float | None = None
    denied_auroc: float | None = None
    unsettled_auroc: float | None = None
    shortfall: str | None = None
    restart_spread: float | None = None
    other_goal: str | None = None
    accepted_before: float | None = None
    accepted_after: float | None = None
    id_against_id: bool = False


def broken_at(clean: float) -> float:
    """The attacked AUROC at and below which a detector is broken: a quarter of its clean lead over chance is gone."""
    return 0.5 + LEFT * (clean - 0.5)


def failures(clean: float, attacked: float, found: Indicators) -> list[str]:
    """Reasons to distrust a high attacked AUROC, in words. Empty: none was found."""
    broken = broken_at(clean)
    return [
        *_of_the_score(found, broken),
        *_of_the_search(found, broken),
        *_of_rivals(attacked, found),
        *_of_the_box(found),
    ]


def _of_the_score(found: Indicators, broken: float) -> Iterator[str]:
    """Properties of the detector that lead a search astray."""
    yield from _unsteady(found)
    if found.gradient_trouble is not None:
        yield f"the gradient of the score is not to be relied on: {found.gradient_trouble}"
    if (found.misled_share or 0) > MISLED:
        share = f"{found.misled_share:.0%} of pairs"
        yield f"the score differs between the sets more than its gradient explains or leads to, for {share}"
    if (found.unexplained_share or 0) > UNEXPLAINED:
        share = f"{found.unexplained_share:.0%} of pairs"
        yield f"on the way between the sets it runs otherwise than its gradient says, for {share}"
    if found.denied_auroc is not None and found.denied_auroc <= broken:
        yield f"what differences show and its gradient does not could take it to AUROC {found.denied_auroc:.3f}"
    correlation = found.surrogate_rank_correlation
    if correlation is not None and correlation < RANK_CORRELATION:
        yield f"the surrogate orders inputs unlike the score (rank correlation {correlation:.2f})"


def _unsteady(found: Indicators) -> Iterator[str]:
    """Why another call might say something else, of images before and after an attack alike."""
    if not found.repeatable:
        yield "the score changes from call to call"
    if found.row_independent is False:
        yield "the score of a row depends on its batch"


def _of_the_search(found: Indicators, broken: float) -> Iterator[str]:
    """What the search was after, and how it went."""
    if found.other_goal is not None:
        yield f"the search was after {found.other_goal}, and may succeed without moving the score as far as it goes"
    if not found.white_box:
        yield "the search used no gradient"
    if found.shortfall is not None:
        yield f"the search {found.shortfall}"
    if (found.zero_gradient_share or 0) > ZERO_GRADIENTS:
        yield f"{found.zero_gradient_share:.0%} of gradients were zero"
    if found.non_finite_share > 0:
        yield f"{found.non_finite_share:.1%} of queries were not finite"
    if (found.clean_best_share or 0) > STUCK:
        yield f"nothing beat the clean input on {found.clean_best_share:.0%} of rows"
    if found.rising_share is not None and found.rising_share < RISING:
        yield f"the loss rose above its first value on {found.rising_share:.0%} of rows only"
    if (found.unfinished_drop or 0) > UNFINISHED:
        yield f"more queries would lower it further (the second half took AUROC {found.unfinished_drop:.3f})"
    if found.unsettled_auroc is not None and found.unsettled_auroc <= broken:
        far = f"ten times as many queries could take it to AUROC {found.unsettled_auroc:.3f}"
        yield f"the search had not slowed down: at the pace of its second half, {far}"
    if (found.restart_spread or 0) > SPREAD:
        yield f"restarts disagree (by AUROC {found.restart_spread:.3f})"


def _of_rivals(attacked: float, found: Indicators) -> Iterator[str]:
    """Searches that should be weaker and were not.

    A suite takes each row at its worst over its members, so none of them leaves less than the suite does. Searches
    without the score's gradient are therefore compared with its members that have it: where they left less, gradients
    mislead, and nobody knows by how much.
    """
    gradient = attacked if found.white_box_auroc is None else found.white_box_auroc
    if found.random_auroc is not None and (found.random_auroc < attacked or found.random_auroc < gradient - BEATEN):
        yield f"random search was stronger (AUROC {found.random_auroc:.3f})"
    for rival, auroc, than in (
        ("a black-box search", found.black_box_auroc, gradient),
        ("a search on another score", found.transfer_auroc, gradient),
        ("a smaller radius", found.smaller_eps_auroc, attacked),
        ("another search within the same limits", found.rival_auroc, attacked),
    ):
        if auroc is not None and auroc < than - BEATEN:
            yield f"{rival} was stronger (AUROC {auroc:.3f} against {than:.3f})"
    if (found.toward_lead or 0) > BEATEN:
        yield f"moves straight toward the other set were stronger (by AUROC {found.toward_lead:.3f} on the rows moved)"


def _of_the_box(found: Indicators) -> Iterator[str]:
    """Whether the search works where it must: an attacker with the whole box may copy an ID image."""
    if found.full_box_auroc is None:
        yield "no sanity-full-box run on the same sides shows that the search works (add it, or sanity-full-box-both)"
    elif found.full_box_auroc > 0.5:
        left = f"AUROC {found.full_box_auroc:.3f}"
        yield f"with the whole box the search still left {left}: it fails, or needs more queries"


def verdict(clean: float, attacked: float, found: Indicators) -> tuple[Verdict, str]:
    """What the numbers allow one to say.

    Broken: a quarter of the clean advantage over chance is gone, attacked <= 0.5 + 0.75 (clean - 0.5), or there was
    none to begin with, or the threshold that the search was after rejects a quarter fewer of the OOD inputs that it
    rejected before. Holds: more is left and no indicator says that the search failed. Inconclusive: more is left, but
    an indicator does; or that threshold accepted every OOD input before, or the search began at ID images.

    Args:
        clean: AUROC before the attack.
        attacked: AUROC after it.
        found: how the search went.

    Returns:
        The verdict and its reason in words.
    """
    if found.id_against_id:
        return "inconclusive", "it starts from ID images, which a score is not asked to tell from ID images"
    unsteady = "".join(f"; {why}" for why in _unsteady(found))
    if clean <= 0.5:
        turned = "; a higher score must mean more OOD: is its sign turned?" if clean < TURNED else ""
        return "broken", f"no better than chance before any attack (AUROC {clean:.3f}){turned}{unsteady}"
    if attacked <= broken_at(clean):
        return "broken", f"AUROC {clean:.3f} fell to {attacked:.3f}{unsteady}"
    before, after = found.accepted_before, found.accepted_after
    if before == 1:
        return "inconclusive", "the deployed threshold accepts every OOD input before any attack"
    if before is not None and after is not None and 1 - after <= LEFT * (1 - before):
        return "broken", f"the deployed threshold accepts {after:.0%} of OOD inputs, {before:.0%} before the attack"
    if reasons := failures(clean, attacked, found):
        return "inconclusive", "; ".join(reasons)
    return "holds", f"AUROC {clean:.3f} fell to {attacked:.3f} and no indicator says that the search failed"
