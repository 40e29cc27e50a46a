"""The report as CSV and as LaTeX: the numbers of its results, and nothing that breaks either."""

import csv
import re

import pytest
import torch

from oodattack.evaluation import evaluate
from oodattack.report import Report, read_report
from oodattack.report.export import percent, tabular
from oodattack.threat import ThreatModel

FIELDS = dict(
    norm="linf", eps=0.05, aim="hide", objective="score", start="ood", init="clean", attack="apgd", queries=5,
    restarts=1, iterate="best", source="test",
)  # fmt: skip


def brightness(x: torch.Tensor) -> torch.Tensor:
    return x.mean((1, 2, 3))


def darkness(x: torch.Tensor) -> torch.Tensor:
    return -brightness(x)


@pytest.fixture(scope="module")
def report() -> Report:
    id_, near, far = torch.rand(3, 8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    match = FIELDS | {"aim": "match", "objective": None, "match": "latent", "paired": False}
    threats = [ThreatModel(name="hide_it", **FIELDS), ThreatModel(name="50%, wide", **(FIELDS | {"eps": 1.0}))]
    detectors = {"bright@a,b": brightness, "dark": darkness}
    sets = {"near": near, "far & away": 0.5 + far / 2}
    report = evaluate(detectors, id=id_, ood=sets, threats=[*threats, ThreatModel(name="m", **match)], seed=0)
    assert {r.verdict for r in report.results} >= {"broken", "inconclusive"}
    return report


def test_csv_has_the_numbers_of_every_result(report, tmp_path):
    report.save(tmp_path / "report.csv")
    with (tmp_path / "report.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(report.results)
    for line, result in zip(lines, report.results, strict=True):
        said = (line["detector"], line["network"], line["threat"], line["ood"], line["verdict"], line["reason"])
        assert said == (result.detector, result.network, result.threat, result.ood, result.verdict, result.reason)
        assert (int(line["n_id"]), int(line["n_ood"])) == (result.clean.n_id, result.clean.n_ood)
        for prefix, found in (("clean", result.clean), ("attacked", result.attacked)):
            for name in ("auroc", "auroc_low", "auroc_high", "fpr_at_95_id_tpr", "aupr"):
                assert float(line[f"{prefix}_{name}"]) == getattr(found, name)
        assert float(line["queries"]) == result.queries
        assert line["mape_median"] == ("" if result.mape is None else str(result.mape.median))
        assert line["certified_auroc"] == ""


def test_latex_has_a_table_a_set_with_a_cell_for_every_threat(report, tmp_path):
    report.save(tmp_path / "report.tex")
    text = (tmp_path / "report.tex").read_text()
    tables = re.findall(r"\\begin\{tabular\}\{lrrr?\}\n(.*?)\\end\{tabular\}", text, re.S)
    assert len(tables) == 2
    marks = {"broken": "", "holds": r"\,\checkmark", "inconclusive": r"\,?"}
    for ood, table in zip(("near", "far & away"), tables, strict=True):
        head, *rows = re.findall(r"^(.*) \\\\$", table, re.M)
        assert head == r"detector & clean & hide\_it & 50\%, wide"
        for row, name in zip(rows, ("bright@a,b", "dark"), strict=True):
            mine = [r for r in report.results if (r.name, r.ood) == (name, ood)]
            left = [f"{100 * float(f'{r.attacked.auroc:.3f}'):.1f}{marks[r.verdict]}" for r in mine]
            assert row.split(" & ") == [name, f"{100 * float(f'{mine[0].clean.auroc:.3f}'):.1f}", *left]


def test_percents_are_rounded_as_in_the_terminal():
    assert [percent(share) for share in (0.9625, 0.0625, 1.0, 0.0)] == ["96.3", "6.2", "100.0", "0.0"]
    assert [f"{share:.3f}" for share in (0.9625, 0.0625)] == ["0.963", "0.062"]


def test_what_does_not_apply_is_a_dash(report):
    fewer = report.model_copy(update={"results": report.results[:-1]})
    assert re.search(r"^dark & [\d.]+ & .* & -- \\\\$", tabular(fewer, "far & away"), re.M)


def test_a_saved_report_is_exported_as_well(report, tmp_path):
    for name in ("report.json", "direct.csv"):
        report.save(tmp_path / name)
    read_report(tmp_path / "report.json").save(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "direct.csv").read_text()
