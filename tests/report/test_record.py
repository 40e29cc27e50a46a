"""The report as data: schema, contract, atomic writing, reading."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import torch

import oodattack
from oodattack.evaluation import evaluate
from oodattack.report import Report, read_report
from oodattack.report.page import page
from oodattack.threat import Suite, ThreatModel

SCHEMA = Path(oodattack.__file__).parent / "report" / "schema.json"
REWRITE = f"{Path(sys.executable).name} tests/report/test_record.py"
FIELDS = dict(
    norm="linf", eps=0.1, aim="hide", objective="score", start="ood", init="ball", attack="apgd", queries=10,
    restarts=1, iterate="best", source="test",
)  # fmt: skip


def generated() -> str:
    schema = Report.model_json_schema(by_alias=True, mode="serialization")
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=1) + "\n"


def brightness(x):
    return x.flatten(1).mean(1)


class Latent(torch.nn.Module):
    def latent(self, x):
        return x.flatten(1)[:, :3]

    def forward(self, x):
        return self.latent(x).sum(1)


@pytest.fixture(scope="module")
def report() -> Report:
    generator = torch.Generator().manual_seed(0)
    id_, ood = torch.rand(2, 6, 1, 4, 4, generator=generator)
    hide = ThreatModel(name="hide", **FIELDS)
    lift = ThreatModel(name="lift", **(FIELDS | {"aim": "raise"}))
    match = ThreatModel(
        name="match", **(FIELDS | {"aim": "match", "objective": None, "match": "latent", "paired": False})
    )
    threats = [hide, lift, match, Suite(name="both-ways", members=(hide,), source="test")]
    detectors = {"latent@net": Latent().eval(), "plain": brightness}
    return evaluate(detectors, id=id_, ood={"near": ood, "far": ood}, threats=threats, seed=3)


@pytest.fixture
def fields(report) -> dict:
    return json.loads(report.json_text())


def test_schema_file_is_up_to_date():
    assert SCHEMA.read_text(encoding="utf-8") == generated(), f"rewrite it with: {REWRITE}"


def test_schema_ships_with_the_package():
    assert SCHEMA.parent.name == "report"  # inside the package that the wheel takes whole
    assert (SCHEMA.parent / "record.py").exists()


def test_the_rewrite_command_works(tmp_path):
    out = tmp_path / "schema.json"
    subprocess.run([sys.executable, __file__, str(out)], check=True, timeout=60)
    assert out.read_text(encoding="utf-8") == generated()


def test_report_is_valid(fields):
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(fields)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r.pop("created"),
        lambda r: r.update(schema=2),
        lambda r: r.update(extra=1),
        lambda r: r["results"][0].pop("verdict"),
        lambda r: r["results"][0].update(verdict="robust"),
        lambda r: r["results"][0]["clean"].update(auroc=1.5),
        lambda r: r["results"][0]["clean"].update(auroc=None),
        lambda r: r["spec"].update(seed="0"),
    ],
)
def test_schema_refuses_spoilt_reports(fields, spoil):
    spoil(fields)
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert not validator.is_valid(fields)


def test_contract_fields(fields):
    assert fields["schema"] == 1
    assert {"schema", "created", "spec", "versions", "results"} <= set(fields)
    assert len(fields["results"]) == 14  # 2 sets x (4 threats on one detector, 3 on the one without a latent)
    for result in fields["results"]:
        assert {
            "detector", "network", "threat", "ood", "direction", "clean", "attacked", "mape", "distance", "queries",
            "seconds", "indicators", "verdict",
        } <= set(result)  # fmt: skip
        for side in ("clean", "attacked"):
            assert {
                "auroc", "auroc_low", "auroc_high", "fpr_at_95_id_tpr", "fpr_at_95_ood_tpr", "aupr", "n_id", "n_ood",
                "ties",
            } <= set(result[side])  # fmt: skip
        assert (result["direction"] == "match") == (result["mape"] is not None)
        assert result["mape"] is None or set(result["mape"]) == {"median", "p90", "max"}
        assert result["verdict"] in ("broken", "holds", "inconclusive")
    spec = fields["spec"]
    assert spec["seed"] == 3
    assert all(len(entry["sha256"]) == 64 for entry in [spec["id"], spec["targets"], *spec["ood"]])
    assert set(spec["threats"]) == {"hide", "lift", "match", "both-ways"}
    assert {"oodattack", "torch", "python"} <= set(fields["versions"])


def test_round_trip(report, tmp_path):
    path = tmp_path / "deep" / "report.json"
    report.save(path)
    assert read_report(path) == report
    assert path.read_text(encoding="utf-8") == report.json_text() == read_report(path).json_text()
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]
    assert isinstance(read_report(path).results[0].indicators["white_box"], bool)


def test_a_name_that_ends_in_html_gets_the_page(report, tmp_path):
    report.save(tmp_path / "report.HTML")
    assert (tmp_path / "report.HTML").read_text(encoding="utf-8") == page(report)


def test_a_folder_is_no_name_for_a_report(report, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (".", tmp_path):
        with pytest.raises(ValueError, match=r"report must be a file, got a folder\. Name a file in it"):
            report.save(folder)


@pytest.mark.parametrize("name", ["table.tsv", "TABLE.MD"])
def test_a_name_that_promises_another_format_is_refused(report, tmp_path, name):
    with pytest.raises(ValueError, match=r"report must be named \.json, \.html, \.csv or \.tex, got \.(tsv|md)\. Name"):
        report.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_saving_is_atomic(report, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match=r"report must be writable, got No space left on device\. Choose another"):
        report.save(path)
    assert path.read_text() == "old"


def test_saving_below_a_file_is_refused(report, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="report must be writable"):
        report.save(tmp_path / "file" / "report.json")


SPOILT = {
    "unknown field": (lambda r: r.update(colour="red"), "`colour` must fit the report schema, got 'red': Extra inputs"),
    "deep unknown field": (lambda r: r["results"][0].update(x=1), r"`results\.0\.x` must fit the report schema, got 1"),
    "another schema": (lambda r: r.update(schema=2), "`schema` must fit the report schema, got 2: Input should be 1"),
    "missing field": (lambda r: r.pop("spec"), "`spec` must fit the report schema, got .*: Field required"),
    "impossible": (
        lambda r: r["results"][0]["clean"].update(auroc=2),
        r"`results\.0\.clean\.auroc` must fit .*, got 2",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT)
def test_reading_names_what_does_not_fit(fields, spoil, message, tmp_path):
    spoil(fields)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"^{path}: {message}.*Write the report anew") as caught:
        read_report(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_report_from_before_the_whole_box_was_a_field_knows_the_shipped_ones(fields, tmp_path):
    for result in fields["results"]:
        assert result.pop("whole_box") is False
    fields["results"][0]["threat"] = "sanity-full-box-both"
    path = tmp_path / "report.json"
    path.write_text(json.dumps(fields))
    assert [r.whole_box for r in read_report(path).results] == [True] + [False] * 13


def test_reading_what_is_no_report(tmp_path):
    path = tmp_path / "report.json"
    with pytest.raises(ValueError, match=r"report must be readable, got No such file or directory\. Check the path"):
        read_report(path)
    for text in ("", "{", "[1, 2]", "\x00" * 1000):
        path.write_text(text)
        with pytest.raises(ValueError, match="must fit the report schema") as caught:
            read_report(path)
        assert len(str(caught.value)) < 400
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="must fit the report schema"):
        read_report(path)


def test_a_report_cannot_be_changed(report):
    with pytest.raises(ValueError, match="frozen"):
        report.created = "yesterday"


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else SCHEMA).write_text(generated(), encoding="utf-8")
