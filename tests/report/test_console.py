"""The report as tables: everything that matters is on the screen, narrow or wide."""

import io

import pytest
import torch
from rich.console import Console

from oodattack.evaluation import evaluate
from oodattack.report.console import bound, show
from oodattack.threat import ThreatModel

FIELDS = dict(
    norm="linf", eps=0.1, aim="hide", objective="score", start="ood", init="ball", attack="apgd", queries=5,
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
        ThreatModel(name="linf-8-255", **(FIELDS | {"eps": 0.03})),  # holds
        ThreatModel(name="sanity-full-box", **(FIELDS | {"eps": 1.0})),  # broken
        ThreatModel(
            name="liang-latent", **(FIELDS | {"aim": "match", "objective": None, "match": "latent", "paired": True})
        ),
        ThreatModel(name="blind", **(FIELDS | {"attack": "random-search", "eps": 0.01})),  # inconclusive
    ]
    return evaluate(detectors, id=id_, ood={"near": ood, "odd [/name]": ood[:5]}, threats=threats, seed=0)


def text(report, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(report, console)
    return console.file.getvalue()


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
    assert "liang-latentdoesnotapplytomahalanobis@ce,energy@greg+,si-a@ce:thedetectorgivesno`latent`tomatch." in joined
    assert "pkg.mod:callableunderblindonnearisinconclusive:thesearchusednogradient" in joined


def test_intervals_need_room(report):
    assert "95 % interval" in text(report, 130)
    assert "95 % interval" not in text(report, 80)


def test_table_prints_to_standard_output(report, capsys):
    report.table()
    assert "mahalanobis@ce" in capsys.readouterr().out


@pytest.mark.parametrize(("value", "shown"), [(0.5, ".50"), (0.994, ".99"), (0.995, "1.0"), (1.0, "1.0"), (0.0, ".00")])
def test_bounds_by_hand(value, shown):
    assert bound(value) == shown


def test_a_report_without_results_prints(report):
    empty = report.model_copy(update={"results": []})
    assert "does not apply" in text(empty, 80)
