"""A comparison as lines: text for people, annotations for GitHub Actions."""

from collections.abc import Iterator

from oodattack.gate.compare import Check, Comparison
from oodattack.gate.wording import doubt, headline, notes, test_used, told, warnings

SHOWN = 3  # largest drops that are shown beside the regressions


def text(found: Comparison) -> Iterator[str]:
    """What fails first, then the largest drops that passed, then what else there is to know."""
    for check in found.regressions:
        yield f"REGRESSION  {check.where}: {told(check)}"
    for cell in found.unsure:
        yield f"NO EVIDENCE {cell.where}: {doubt(cell)}"
    for check in largest(found):
        yield f"passed      {check.where}: {told(check)}"
    yield f"{headline(found)}; {test_used(found)}"
    yield from (f"note: {note}" for note in notes(found))
    yield from (f"warning: {warning}" for warning in warnings(found))


def largest(found: Comparison) -> list[Check]:
    """The largest drops that passed."""
    passed = [c for c in found.checks if not c.regression and c.drop > 0]
    return sorted(passed, key=lambda c: -c.drop)[:SHOWN]


def github(found: Comparison) -> Iterator[str]:
    """Workflow commands, which GitHub shows on the page of a run and beside the change."""
    for check in found.regressions:
        yield command("error", f"AUROC regression: {check.where}", told(check))
    for cell in found.unsure:
        yield command("error", f"inconclusive attack: {cell.where}", doubt(cell))
    for warning in warnings(found):
        yield command("warning", "oodattack check", warning)
    for note in notes(found):
        yield command("notice", "oodattack check", note)
    yield command("notice", "oodattack check", f"{headline(found)}; {test_used(found)}")


def command(level: str, title: str, message: str) -> str:
    """One workflow command, with what has a meaning there escaped."""
    title = escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={title}::{escaped(message)}"


def escaped(words: str) -> str:
    """Text of a workflow command."""
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


FORMATS = {"text": text, "github": github}
