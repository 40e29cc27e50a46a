"""The report as tables: everything that matters is on the screen, narrow or wide."""

import io

import pytest
import torch
from rich.console import Console

from oodattack.evaluation import evaluate
from oodattack.report.console import bound, cell, notes, show
from oodattack.threat import Sweep, ThreatModel

FIELDS = dict(
    norm="linf", eps=0.1, aim="hide", objective="score", start="ood", init="ball", attack="apgd", queries=10,
    restarts=1, iterate="best", source="test",
)  # fmt: skip
NAMES = ["mahalanobis@ce", "energy@greg+", "si-a@ce", "pkg.mod:callable"]


class Plain(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1).mean(1)


class Latent(Plain):
    def latent(self, x):
        return x.flatten(1)[:, :3]


@pytest.fixture(scope="module")
def report():
    generator = torch.Generator().manual_seed(0)
    id_ = 0.5 * torch.rand(8, 1, 4, 4, generator=generator)
    ood = id_ + 0.4
    detectors = {name: Plain().eval() for name in NAMES[:-1]} | {NAMES[-1]: Latent().eval()}
    threats = [
        ThreatModel(name="linf-small", **(FIELDS | {"eps": 0.03})),  # holds
        ThreatModel(name="own-full-box", **(FIELDS | {"eps": 1.0})),  # broken
        ThreatModel(
            name="match-latent", **(FIELDS | {"aim": "match", "objective": None, "match": "latent", "paired": True})
        ),
        ThreatModel(name="blind", **(FIELDS | {"attack": "random-search", "eps": 0.01})),  # inconclusive
    ]
    return evaluate(detectors, id=id_, ood={"near": ood, "odd [/name]": ood[:5]}, threats=threats, seed=0)


def text(report, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(report, console)
    return console.file.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_every_verdict_has_a_mark_of_its_own_in_every_encoding(report, encoding):
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace"), width=80)
    show(report, console)
    console.file.flush()
    out = console.file.buffer.getvalue().decode(encoding)
    broken, holds = "✗✓" if encoding == "utf-8" else "x+"
    assert f"{broken} broken  {holds} holds  ? inconclusive" in out
    for verdict, mark in (("broken", broken), ("holds", holds), ("inconclusive", "?")):
        results = [r for r in report.results if r.verdict == verdict]
        assert results and all(f"{r.attacked.auroc:.3f} {mark}" in out for r in results)


@pytest.mark.parametrize("width", [80, 130])
def test_everything_is_on_the_screen(report, width):
    out = text(report, width)
    assert max(len(line) for line in out.splitlines()) <= width
    for name in NAMES:
        assert name in out
    joined = "".join(out.split())
    assert {r.verdict for r in report.results} == {"broken", "holds", "inconclusive"}
    tables = out.split("AUROC, OOD positive")[0]
    for mark, verdict in (("✗", "broken"), ("✓", "holds"), ("?", "inconclusive")):
        assert tables.count(mark) == sum(r.verdict == verdict for r in report.results)
        assert f"{mark} {verdict}" in out
    assert "8id(ID)against8near(OOD)" in joined
    assert "8id(ID)against5odd[/name](OOD)" in joined  # no markup
    assert f"{report.results[0].clean.auroc:.3f}" in out
    assert "MAPE" in out
    assert "match-latentdoesnotapplytomahalanobis@ce,energy@greg+,si-a@ce:thedetectorgivesno`latent`tomatch." in joined
    assert "pkg.mod:callableunderblindonnearisinconclusive:thesearchusednogradient" in joined


def test_a_turned_sign_is_named_once_a_set(report):
    reason = "no better than chance before any attack (AUROC 0.012); a higher score must mean more OOD: is it turned?"
    turned = [
        r.model_copy(
            update={"clean": r.clean.model_copy(update={"auroc": 0.012}), "reason": reason, "verdict": "broken"}
        )
        for r in report.results
        if r.name == NAMES[0] and r.ood == "near"
    ]
    found = list(notes(report.model_copy(update={"results": turned})))
    assert [note for note in found if "chance" in note] == [f"{NAMES[0]} on near: {reason}"]
    assert not any("chance" in note for note in notes(report))


def test_scores_that_tie_are_named_once_a_set(report):
    def tying(share):
        results = [r.model_copy(update={"clean": r.clean.model_copy(update={"ties": share})}) for r in report.results]
        return [note for note in notes(report.model_copy(update={"results": results})) if "score alike" in note]

    constant = tying(1.0)
    assert f"{NAMES[0]} on near: 100% of ID-OOD pairs score alike. Is it constant, or saturated?" in constant
    assert len(constant) == len({(r.name, r.ood) for r in report.results})
    assert tying(0.49) == []


def said(report, words, **changes):
    """The notes with these words of the first result, changed."""
    result = report.results[0].model_copy(update=changes)
    found = notes(report.model_copy(update={"results": [result]}))
    return [note for note in found if words in note and "both in" not in note]


def test_few_images_are_a_warning(report):
    clean = report.results[0].clean
    one = said(report, "Warning", clean=clean.model_copy(update={"n_id": 1, "n_ood": 9}))
    assert one == [
        "Warning: 1 image says little of id, verdicts and intervals included. Take 10 at least.",
        f"Warning: 9 images say little of {report.results[0].ood}, verdicts and intervals included. Take 10 at least.",
    ]
    assert said(report, "Warning", clean=clean.model_copy(update={"n_id": 10, "n_ood": 10})) == []


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("raise", ["t: raises ID images, and leaves OOD images as they are."]),
        ("both", ["t: moves images of both sides."]),
        ("hide", []),
        ("match", []),
    ],
)
def test_which_images_a_threat_moves_is_said_where_it_is_not_the_ood_ones_alone(report, direction, expected):
    assert said(report, "images", direction=direction, threat="t", clean=clean_of_many(report)) == expected


@pytest.mark.parametrize(("rounded", "told"), [(0.45, True), (0.15, True), (0.34, False), (0.26, False)])
def test_what_rounding_to_8_bits_changes_is_said(report, rounded, told):
    result = report.results[0]
    attacked = result.attacked.model_copy(update={"auroc": 0.3})
    in_8_bits = result.attacked.model_copy(update={"auroc": rounded})
    expected = f"{result.name} under {result.threat} on {result.ood}: 0.300 is left, of the same images rounded to "
    found = said(report, "8 bits", attacked=attacked, attacked_8bit=in_8_bits)
    assert found == ([f"{expected}8 bits {rounded:.3f}."] if told else [])


def clean_of_many(report):
    return report.results[0].clean.model_copy(update={"n_id": 10, "n_ood": 10})


@pytest.mark.parametrize(
    ("field", "why"), [("row_independent", "depends on its batch"), ("repeatable", "changes from call to call")]
)
def test_a_score_that_hangs_on_the_call_is_named_once(report, field, why):
    hanging = [
        r.model_copy(update={"indicators": r.indicators | {field: False}} if r.name == NAMES[0] else {})
        for r in report.results
    ]
    found = [note for note in notes(report.model_copy(update={"results": hanging})) if why in note]
    assert len(found) == 1 and found[0].startswith(f"{NAMES[0]}: ") and found[0].endswith("in training mode?")
    assert not any(why in note for note in notes(report))


def test_intervals_need_room(report):
    assert "95 % interval" in text(report, 130)
    assert "95 % interval" not in text(report, 80)


def test_table_prints_to_standard_output(report, capsys):
    report.table()
    assert "mahalanobis@ce" in capsys.readouterr().out


@pytest.mark.parametrize(("value", "shown"), [(0.5, ".50"), (0.994, ".99"), (0.995, "1.0"), (1.0, "1.0"), (0.0, ".00")])
def test_bounds_by_hand(value, shown):
    assert bound(value) == shown


def test_mape_has_two_digits_so_that_a_table_fits_a_terminal(report):
    (r, *_) = (r for r in report.results if r.mape)
    assert "MAPE 0.38 %" in cell(
        r.model_copy(update={"mape": r.mape.model_copy(update={"median": 0.003817})}), intervals=False
    )


def test_a_report_without_results_prints(report):
    empty = report.model_copy(update={"results": []})
    assert "does not apply" in text(empty, 80)


def test_a_sweep_has_a_table_of_its_own_and_no_columns():
    generator = torch.Generator().manual_seed(0)
    id_ = 0.5 * torch.rand(8, 1, 4, 4, generator=generator)
    members = tuple(ThreatModel(name=f"radii@{eps}", **(FIELDS | {"eps": eps})) for eps in (0.1, 0.2, 0.9))
    near = ThreatModel(name="near", **(FIELDS | dict(aim="cross", objective=None, attack="fmn", eps=1.0, queries=40)))
    threats = [Sweep(name="radii", members=members, source="test"), near]
    swept = evaluate({"plain@ce": Plain().eval()}, id=id_, ood={"near": id_ + 0.4}, threats=threats, seed=0)
    out = text(swept, 100)
    assert "AUROC against eps: radii on near" in out
    (curve,) = [c for c in swept.curves if c.against == "eps"]
    assert 0.1 < curve.eps50 < 0.9
    assert f"{curve.eps50:.3g}" in out
    assert "radii@0.1 " not in out.split("AUROC, OOD positive")[0]
    crossing = swept.results[-1].crossing
    assert crossing.share == 1
    assert f"distance {crossing.median:.3g}" in out
