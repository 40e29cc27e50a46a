"""A comparison as JUnit XML, which most CI systems can show: a test case an AUROC, a skipped one for a new cell."""

import re
from pathlib import Path
from xml.etree import ElementTree as Xml

from oodattack.gate.compare import Comparison
from oodattack.gate.wording import doubt, headline, notes, told, warnings
from oodattack.whole_file import write_file

FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML 1.0 cannot hold
SUITE = "oodattack check"


def junit(found: Comparison) -> str:
    """The XML text."""
    failures = {cell.key: ("inconclusive", doubt(cell)) for cell in found.unsure}
    failures |= {c.key: ("regression", told(c)) for c in found.regressions}
    checked = {c.key for c in found.checks}
    boxes = [cell for cell in found.unsure if cell.key not in checked]  # whose AUROC is not compared
    counts = {
        "tests": str(len(found.checks) + len(boxes) + len(found.added)),
        "failures": str(len(failures)),
        "errors": "0",
        "skipped": str(len(found.added)),
        "time": "0",
    }
    root = Xml.Element("testsuites", counts)
    suite = Xml.SubElement(root, "testsuite", {"name": SUITE, **counts})
    for check in found.checks:
        case = test_case(suite, check.detector, check.threat, check.ood)
        if check.key in failures:
            failed(case, *failures[check.key])
        Xml.SubElement(case, "system-out").text = xml_text(told(check))
    for cell in boxes:
        failed(test_case(suite, cell.detector, cell.threat, cell.ood), *failures[cell.key])
    for cell in found.added:
        case = test_case(suite, cell.detector, cell.threat, cell.ood)
        Xml.SubElement(case, "skipped", {"message": "not in the baseline"})
    Xml.SubElement(suite, "system-out").text = xml_text("\n".join([headline(found), *notes(found)]))
    Xml.SubElement(suite, "system-err").text = xml_text("\n".join(warnings(found)))
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def failed(case: Xml.Element, kind: str, words: str) -> None:
    """Mark a test case as failed."""
    Xml.SubElement(case, "failure", {"type": kind, "message": xml_text(words)}).text = xml_text(words)


def not_compared(error: Exception) -> str:
    """The XML text where nothing could be compared."""
    counts = {"tests": "1", "failures": "0", "errors": "1", "skipped": "0", "time": "0"}
    root = Xml.Element("testsuites", counts)
    suite = Xml.SubElement(root, "testsuite", {"name": SUITE, **counts})
    case = Xml.SubElement(suite, "testcase", {"classname": SUITE, "name": "comparison", "time": "0"})
    words = xml_text(" ".join(str(error).split()))
    Xml.SubElement(case, "error", {"type": type(error).__name__, "message": words}).text = words
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def test_case(suite: Xml.Element, detector: str, threat: str, ood: str) -> Xml.Element:
    """One AUROC: the class is the detector, the name what was done on which set."""
    names = {"classname": xml_text(detector), "name": xml_text(f"{threat} on {ood}"), "time": "0"}
    return Xml.SubElement(suite, "testcase", names)


def xml_text(words: str) -> str:
    """Text without the characters that XML cannot hold."""
    return FORBIDDEN.sub("?", words)


def save_junit(found: Comparison | Exception, path: Path) -> None:
    """Write the XML of a comparison, or of why there is none.

    Raises:
        ValueError: it cannot be written.
    """
    text = not_compared(found) if isinstance(found, Exception) else junit(found)
    write_file(path, text.encode(), "--junit")
