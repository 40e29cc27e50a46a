"""What fails and what passes; what counts as the same measurement."""

import json
import re

import numpy as np
import pytest

from oodattack.gate import compare, measured
from oodattack.gate.compare import CLEAN
from oodattack.gate.delong import hanley_mcneil, placed
from oodattack.gate.wording import notes, remedy, warnings
from oodattack.report import Source

AT = dict(max_drop=0.02, alpha=0.01)


def test_the_same_again_passes_and_has_no_noise(made, drawn):
    id_, clean, attacked = drawn
    old = made(id_, clean, {"linf": attacked})
    found = compare(made(id_ * 3, clean * 3, {"linf": attacked * 3}), old, **AT)
    assert [(c.threat, c.drop, c.error, c.power, c.paired) for c in found.checks] == [
        (CLEAN, 0, 0, 1, True),
        ("linf", 0, 0, 1, True),
    ]
    assert not found.regressions and not list(warnings(found))


def test_a_fall_under_attack_fails_that_cell_alone(made, drawn):
    id_, clean, attacked = drawn
    noise = np.random.default_rng(1).standard_normal(200) * 0.05
    old = made(id_, clean, {"linf": attacked, "l2": attacked - 0.5})
    found = compare(made(id_, clean, {"linf": attacked - 0.3 + noise, "l2": attacked - 0.5 + noise}), old, **AT)
    (bad,) = found.regressions
    assert (bad.detector, bad.threat, bad.ood) == ("energy@ce", "linf", "svhn")
    assert bad.drop == pytest.approx(bad.old - bad.new) and bad.drop > 0.05 and bad.p < 1e-6
    lost = placed(id_, attacked).minus(placed(id_, attacked - 0.3 + noise))
    assert bad.error == pytest.approx(float(lost.error))


def test_a_fall_of_the_clean_auroc_fails_once_whatever_the_number_of_threats(made, drawn):
    id_, clean, attacked = drawn
    threats = {"linf": attacked, "l2": attacked}
    found = compare(made(id_, clean - 1, threats), made(id_, clean, threats), **AT)
    assert [c.threat for c in found.regressions] == [CLEAN]
    assert len(found.checks) == 3


def test_a_threat_called_clean_hides_nothing(made, drawn):
    id_, clean, attacked = drawn
    scores = [(clean, attacked), (clean - 1, attacked), (clean, attacked - 1)]
    old, *others = (
        one.model_copy(update={"cells": [c.model_copy(update={"threat": CLEAN}) for c in one.cells]})
        for one in (made(id_, before, {"x": after}) for before, after in scores)
    )
    for new in others:
        found = compare(new, old, **AT)
        assert len(found.checks) == 2 and [c.threat for c in found.regressions] == [CLEAN]


@pytest.mark.parametrize(("was", "now", "margin"), [(0, 20, 0.02), (100, 120, 0.02), (0, 50, 0.05), (200, 230, 0.03)])
def test_a_fall_of_exactly_the_margin_passes(made, was, now, margin):
    id_ = np.arange(1000.0)
    old, new = (np.where(id_ < below, -1.0, 2000.0) for below in (was, now))  # AUROC 1 - below / 1000
    at = dict(max_drop=margin, alpha=0.01)
    assert not compare(made(id_, old, {"x": new}), made(id_, old, {"x": old}), **at).regressions
    new[now] = -1.0
    assert compare(made(id_, old, {"x": new}), made(id_, old, {"x": old}), **(at | {"alpha": 0.5})).regressions


def test_a_rise_passes(made, drawn):
    id_, clean, attacked = drawn
    assert not compare(made(id_, clean, {"x": attacked + 1}), made(id_, clean, {"x": attacked}), **AT).regressions


def test_what_the_whole_box_leaves_is_no_regression_when_it_falls(made, drawn):
    id_, clean, attacked = drawn
    old = made(id_, clean, {"linf": attacked, "sanity-full-box": attacked + 5})
    found = compare(made(id_, clean, {"linf": attacked, "sanity-full-box": attacked - 5}), old, **AT)
    assert not found.failed
    assert [c.threat for c in found.checks] == [CLEAN, "linf"]


def test_a_whole_box_of_any_name_is_one(made, drawn):
    id_, clean, attacked = drawn
    old = made(id_, clean, {"linf": attacked, "my-box": attacked + 5})
    new = made(id_, clean, {"linf": attacked, "my-box": attacked - 5})
    boxed = new.model_copy(
        update={"cells": [c.model_copy(update={"whole_box": c.threat == "my-box"}) for c in new.cells]}
    )
    assert compare(new, old, **AT).failed
    found = compare(boxed, old, **AT)  # the baseline was written before it was known by more than its name
    assert not found.failed and [c.threat for c in found.checks] == [CLEAN, "linf"]


def test_a_small_fall_passes_however_certain_it_is(made, drawn):
    id_, clean, attacked = drawn
    new, old = made(id_, clean, {"x": attacked - 0.03}), made(id_, clean, {"x": attacked})
    (_, check) = compare(new, old, **AT).checks
    assert 0.005 < check.drop < 0.02 and check.drop > 5 * check.error
    assert not check.regression
    assert compare(new, old, max_drop=0.0, alpha=0.01).checks[1].regression


def test_a_large_fall_that_noise_explains_passes(made):
    draw = np.random.default_rng(3)
    id_, ood, other = draw.standard_normal(60), draw.standard_normal(50) + 1, draw.standard_normal(50) + 0.85
    (_, check) = compare(made(id_, ood, {"x": other}), made(id_, ood, {"x": ood}), **AT).checks
    assert check.drop > 0.02 and check.p > 0.01 and not check.regression
    assert check.power < 0.5


def test_without_scores_the_two_aurocs_are_taken_for_independent(made, drawn):
    id_, clean, attacked = drawn
    with_scores = made(id_, clean, {"x": attacked})
    bare = made(id_, clean, {"x": attacked - 0.3}, scores=False)
    (_, one) = compare(bare, with_scores, **AT).checks
    apart = [float(placed(id_, attacked).error), hanley_mcneil(one.new, 325, 200)]
    assert not one.paired and one.error == pytest.approx(np.hypot(*apart))
    assert not one.regression and compare(made(id_, clean, {"x": attacked - 0.3}), with_scores, **AT).regressions
    found = compare(bare, bare, **AT)
    assert "unpaired" in next(warnings(found))
    assert any("too few images for the margin" in w for w in warnings(found))


def test_more_images_are_recommended_that_would_do(made, drawn):
    id_, clean, attacked = drawn
    bare = made(id_, clean, {"x": attacked}, scores=False)
    words = remedy(compare(bare, bare, **AT))
    times = float(words.split()[1])
    n = round(times)
    more = made(np.tile(id_, n), np.tile(clean, n), {"x": np.tile(attacked, n)}, scores=False)
    assert not compare(more, more, **AT).weak
    less = n // 2
    fewer = made(np.tile(id_, less), np.tile(clean, less), {"x": np.tile(attacked, less)}, scores=False)
    assert compare(fewer, fewer, **AT).weak


def test_new_cells_pass_and_are_told(made, drawn):
    id_, clean, attacked = drawn
    found = compare(made(id_, clean, {"x": attacked, "y": attacked}), made(id_, clean, {"x": attacked}), **AT)
    assert [c.threat for c in found.added] == ["y"] and len(found.checks) == 2


DIFFERENT = {
    "spec.seed": dict(seed=1),
    "spec.precision": dict(precision="bfloat16"),
    "spec.id": "id",
    "spec.targets": "targets",
    "spec.ood.svhn": "ood",
    "spec.threats.x": dict(threats={"x": "e" * 64}),
    "spec.detectors.energy@ce": dict(detectors=["msp@ce"]),
    "results: energy@ce, x on svhn": dict(cells=[]),
}


@pytest.mark.parametrize(("field", "change"), DIFFERENT.items(), ids=DIFFERENT)
def test_another_spec_is_named(made, drawn, field, change):
    id_, clean, attacked = drawn
    targets = Source(name="cifar10 (reference)", n=9, sha256="9" * 64, source="test")
    new, old = (made(id_, clean, {"x": attacked}, targets=targets) for _ in range(2))
    if isinstance(change, str):
        where = getattr(new, change)
        other = [s.model_copy(update={"sha256": "f" * 64}) for s in (where if change == "ood" else [where])]
        change = {change: other if change == "ood" else other[0]}
    with pytest.raises(ValueError, match=f"^`{field}` must be as in the baseline, .*--update") as caught:
        compare(new.model_copy(update=change), old, **AT)
    assert "\n" not in str(caught.value)
    assert not re.search("[0-9a-f]{13}", str(caught.value))  # nobody reads a whole hash


def test_a_cell_that_was_skipped_says_why(made, drawn):
    id_, clean, attacked = drawn
    old = made(id_, clean, {"x": attacked})
    new = old.model_copy(update={"cells": [], "skipped": {"energy@ce, x on svhn": "it has no gradient"}})
    with pytest.raises(ValueError, match="it has no gradient"):
        compare(new, old, **AT)


def test_weights_versions_and_verdicts_may_differ_and_are_told(made, drawn):
    id_, clean, attacked = drawn
    old = made(id_, clean, {"x": attacked})
    cells = [c.model_copy(update={"verdict": "inconclusive"}) for c in old.cells]
    change = dict(networks={"ce": "0" * 64}, versions={"oodattack": "0.2.0", "torch": "2.6.0"}, cells=cells)
    found = compare(old.model_copy(update=change), old, **AT, accept_inconclusive=True)
    assert list(notes(found)) == [
        "other weights than in the baseline: ce",
        "oodattack 0.1.0 -> 0.2.0: a difference may be its own",
    ]
    assert "inconclusive now" in next(warnings(found)) and not found.failed


def test_an_attack_that_is_no_evidence_any_more_fails(made, drawn):
    id_, clean, attacked = drawn
    old = made(id_, clean, {"x": attacked, "y": attacked})
    verdicts = [["broken", "inconclusive"], ["inconclusive", "inconclusive"]]
    old, new = (
        old.model_copy(
            update={"cells": [c.model_copy(update={"verdict": v}) for c, v in zip(old.cells, some, strict=True)]}
        )
        for some in verdicts
    )
    found = compare(new, old, **AT)
    assert found.failed and not found.regressions
    assert [cell.threat for cell in found.unsure] == ["x"]  # y was inconclusive already
    assert "inconclusive in 1 of 2 cells" in next(warnings(found))
    assert not compare(new, old, **AT, accept_inconclusive=True).failed
    assert not compare(old, new, **AT).failed


@pytest.mark.parametrize("wrong", [dict(max_drop=-0.1), dict(max_drop=1), dict(alpha=0), dict(alpha=0.6)])
def test_arguments_in_range(made, drawn, wrong):
    id_, clean, attacked = drawn
    old = made(id_, clean, {"x": attacked})
    with pytest.raises(ValueError, match=f"^`{next(iter(wrong))}` must be in"):
        compare(old, old, **(AT | wrong))


def test_a_baseline_of_nothing_passes_nothing(made, drawn):
    id_, clean, attacked = drawn
    new = made(id_, clean, {"x": attacked})
    nothing = new.model_copy(update={"cells": [], "threats": {}, "detectors": [], "ood": []})
    with pytest.raises(ValueError, match=r"^`baseline` must have results to compare with, got none\."):
        compare(new, nothing, **AT)


def test_a_baseline_comes_back_as_it_was_written(made, drawn, tmp_path):
    id_, clean, attacked = drawn
    old = made(id_, clean, {"x": attacked})
    path = tmp_path / "deep" / "baseline.json"
    old.save(path)
    assert measured(path) == old
    assert [p.name for p in path.parent.iterdir()] == ["baseline.json"]
    assert path.stat().st_size < 4000  # 725 scores and everything else


def test_a_baseline_must_be_what_its_scores_say(made, drawn, tmp_path):
    id_, clean, attacked = drawn
    path = tmp_path / "baseline.json"
    made(id_, clean, {"x": attacked}).save(path)
    whole = json.loads(path.read_text())
    for spoil, says in (
        (lambda f: f["cells"][0]["attacked"].update(auroc=0.1), "must be that of its scores"),
        (lambda f: f["cells"][0]["attacked"].update(n_id=9), "must have 9 and 200 rows"),
        (lambda f: f["scores"]["energy@ce"]["rows"].update({"clean id": "?"}), "must hold ranks of 'clean id'"),
        (lambda f: f.update(scores={}), "must have those of 'energy@ce'"),
        (lambda f: f.update(seed="zero"), "`seed` must be"),
        (lambda f: f.update(baseline=2), "`baseline` must be"),
    ):
        fields = json.loads(json.dumps(whole))
        spoil(fields)
        path.write_text(json.dumps(fields))
        with pytest.raises(ValueError, match=says) as caught:
            measured(path)
        assert str(caught.value).startswith(f"{path}: ")
