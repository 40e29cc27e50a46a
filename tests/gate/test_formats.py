"""Text, annotations and JUnit XML of one comparison."""

from xml.etree import ElementTree as Xml

import pytest

from oodattack.gate import FORMATS, compare
from oodattack.gate.formats import command
from oodattack.gate.junit import junit, save_junit
from oodattack.gate.wording import told

ATTRIBUTES = {  # what readers of JUnit XML know, and whether it must be there
    "testsuites": {"tests", "failures", "errors", "skipped", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testcase": {"classname", "name", "time"},
    "failure": {"message", "type"},
    "skipped": {"message"},
    "system-out": set(),
    "system-err": set(),
}


@pytest.fixture
def found(made, drawn):
    id_, clean, attacked = drawn
    old = made(id_, clean, {"linf": attacked, "l2": attacked})
    new = made(id_, clean, {"linf": attacked - 0.5, "l2": attacked - 0.02, "new": attacked})
    return compare(new, old, max_drop=0.02, alpha=0.01)


def test_text(found):
    lines = list(FORMATS["text"](found))
    assert lines[0].startswith("REGRESSION  energy@ce, linf on svhn: AUROC 0.")
    assert "drop 0.1" in lines[0] and "standard error 0.0" in lines[0]
    assert lines[1].startswith("passed      energy@ce, l2 on svhn: AUROC")
    assert lines[2].startswith("1 regression in 1 clean and 2 attacked AUROCs") and "paired" in lines[2]
    assert lines[3] == "note: not in the baseline, and let pass: 1 cells; --update adds them"


def test_github(found):
    lines = list(FORMATS["github"](found))
    assert lines[0].startswith("::error title=AUROC regression%3A energy@ce%2C linf on svhn::AUROC 0.")
    assert lines[-1].startswith("::notice title=oodattack check::1 regression in")
    assert all(line.startswith(("::error ", "::warning ", "::notice ")) for line in lines)


def test_nothing_breaks_out_of_an_annotation():
    assert command("error", "a:b,c\n%", "x\n::error::y%") == "::error title=a%3Ab%2Cc%0A%25::x%0A::error::y%25"


def test_junit_has_a_case_for_each_auroc(found):
    root = Xml.fromstring(junit(found))
    for element in root.iter():
        assert set(element.attrib) == ATTRIBUTES[element.tag]
    (suite,) = root
    cases = suite.findall("testcase")
    assert [(c.get("classname"), c.get("name")) for c in cases] == [
        ("energy@ce", "clean on svhn"),
        ("energy@ce", "linf on svhn"),
        ("energy@ce", "l2 on svhn"),
        ("energy@ce", "new on svhn"),
    ]
    assert [[child.tag for child in c] for c in cases] == [
        ["system-out"], ["failure", "system-out"], ["system-out"], ["skipped"],
    ]  # fmt: skip
    assert "drop 0.1" in cases[1].find("failure").get("message")
    for element in (root, suite):
        assert [element.get(k) for k in ("tests", "failures", "errors", "skipped")] == ["4", "1", "0", "1"]


def test_an_attack_that_is_no_evidence_any_more_is_a_failure_everywhere(made, drawn):
    id_, clean, attacked = drawn
    old = made(id_, clean, {"linf": attacked})
    cells = [c.model_copy(update={"verdict": "inconclusive", "reason": "it used no gradient"}) for c in old.cells]
    found = compare(old.model_copy(update={"cells": cells}), old, max_drop=0.02, alpha=0.01)
    says = "is no evidence, the attack is inconclusive and was not in the baseline: it used no gradient"
    first, last = FORMATS["text"](found)
    assert first.startswith("NO EVIDENCE energy@ce, linf on svhn: AUROC 0.") and first.endswith(says)
    assert last.startswith("no regression, 1 inconclusive now, in 1 clean and 1 attacked AUROCs")
    annotation = next(FORMATS["github"](found))
    assert annotation.startswith("::error title=inconclusive attack%3A energy@ce%2C linf on svhn::AUROC 0.")
    root = Xml.fromstring(junit(found))
    assert root.get("failures") == "1"
    failure = root.find(".//testcase[@name='linf on svhn']/failure")
    assert failure.get("type") == "inconclusive" and failure.get("message").endswith(says)
    assert "reason" not in found.new.model_dump()["cells"][0]  # the format of a baseline is what it was


def test_a_whole_box_that_is_no_evidence_any_more_has_a_case_of_its_own(made, drawn):
    id_, clean, attacked = drawn
    old = made(id_, clean, {"linf": attacked, "sanity-full-box": attacked})
    verdicts = [c.model_copy(update={"verdict": "inconclusive"}) if c.whole_box else c for c in old.cells]
    found = compare(old.model_copy(update={"cells": verdicts}), old, max_drop=0.02, alpha=0.01)
    root = Xml.fromstring(junit(found))
    assert found.failed and [root.get(k) for k in ("tests", "failures")] == ["3", "1"] == [
        str(len(root.findall(f".//{tag}"))) for tag in ("testcase", "failure")
    ]
    assert root.find(".//testcase[@name='sanity-full-box on svhn']/failure").get("type") == "inconclusive"


def test_any_name_makes_valid_xml(made, drawn, tmp_path):
    id_, clean, attacked = drawn
    old = made(id_, clean, {'<&">\x00\x1b ü \ud800': attacked})
    save_junit(compare(old, old, max_drop=0.02, alpha=0.01), tmp_path / "out" / "check.xml")
    root = Xml.fromstring((tmp_path / "out" / "check.xml").read_bytes())
    assert root.find(".//testcase[2]").get("name") == '<&">?? ü ? on svhn'
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_xml_that_cannot_be_written(found, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^`--junit` must be a file that can be written"):
        save_junit(found, tmp_path / "file" / "check.xml")


def test_numbers_of_a_check_in_words(found):
    same = found.checks[0]
    assert told(same) == "AUROC 0.972, unchanged"
    fell = same._replace(new=same.old - 0.1, error=0.02, p=1e-5, regression=True)
    assert told(fell) == "AUROC 0.972 -> 0.872, drop 0.100 (standard error 0.0200, p 1e-05)"
    assert told(same._replace(new=same.old + 0.01, error=0.02)).startswith("AUROC 0.972 -> 0.982, gain 0.010 (")
