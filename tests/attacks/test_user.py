"""Attacks of user code: run like any other, refused in one line, and no evidence by themselves."""

import sys

import pytest
import torch

from oodattack.attacks import find_attack
from oodattack.cli import main
from oodattack.evaluation import evaluate
from oodattack.evaluation.shortfall import YOURS, shortfall
from oodattack.threat import Suite, ThreatModel

CODE = """
import torch
from oodattack.attack import Attack
from oodattack.attacks import pgd

def known():
    return pgd(step_size=0.25)

def blind():
    return Attack(lambda x, *_: (x, None), lambda seen, x, *_: (seen.x_adv - 0.02, None), white_box=False)

def needs(step):
    return known()

def something_else():
    return "an attack"

def fails():
    raise KeyError("nothing here")

def bad_start():
    return known()._replace(start=lambda x, threat, random, steps: x)

def bad_shape():
    return known()._replace(start=lambda x, *_: (x[:, :, :1], None))

def bad_step():
    return known()._replace(step=lambda seen, *_: 1 / 0)

NUMBER = 3
"""
FIELDS = dict(
    name="t", norm="linf", eps=0.1, aim="hide", objective="score", start="ood", init="clean", queries=20, restarts=1,
    iterate="best", source="test",
)  # fmt: skip
X = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
ID, OOD = 0.40 + 0.1 * X[:10], 0.45 + 0.1 * X[10:]


def brightness(x):
    return x.mean((1, 2, 3))


@pytest.fixture(autouse=True)
def code(tmp_path, monkeypatch):
    (tmp_path / "mine_attacks.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("mine_attacks", None)
    yield
    sys.modules.pop("mine_attacks", None)


def threat(attack: str, **changes) -> ThreatModel:
    return ThreatModel(**FIELDS | {"attack": attack} | changes)


def run(limits):
    return evaluate(brightness, id=ID, ood={"near": OOD}, threats=limits, seed=0).results[0]


def test_it_does_what_the_same_search_does_under_its_own_name():
    mine, known = run(threat("mine_attacks:known")), run(threat("pgd", step_size=0.25))
    assert (mine.attacked, mine.queries, mine.distance) == (known.attacked, known.queries, known.distance)
    assert mine.attack.startswith("mine_attacks:known, 20 queries")
    assert mine.verdict == "broken"


def test_one_without_a_gradient_says_so():
    assert not find_attack(threat("mine_attacks:blind")).white_box
    assert run(threat("mine_attacks:blind")).attacked.auroc < 0.1


def test_by_itself_it_is_no_evidence():
    mine, known = threat("mine_attacks:known"), threat("pgd", step_size=0.25, name="k")
    assert shortfall(mine, white_box=True) == YOURS
    assert shortfall(Suite(name="s", members=(mine, known), source="test"), white_box=True) is None
    small = run(threat("mine_attacks:known", eps=1e-4))
    assert small.verdict == "inconclusive"
    assert YOURS in small.reason


WRONG = {
    "mine_attacks:nothing": "`mine_attacks:nothing` must name something in mine_attacks, got no such name",
    "mine_attacks:NUMBER": "must be callable, got int",
    "missing_module:attack": "must name an importable module",
    "mine_attacks:something_else": r"must return an attack, got str\. Return oodattack\.attack\.Attack",
    "mine_attacks:needs": "must make an attack, called bare, got TypeError: needs",
    "mine_attacks:fails": r"must make an attack, .* KeyError: 'nothing here' \(mine_attacks\.py, line \d+\)",
    "mine_attacks:bad_start": r"the start of `mine_attacks:bad_start` must return \(x_adv, state\), got Tensor",
    "mine_attacks:bad_shape": r"must return points of shape \(\d+, 1, 4, 4\), got \(\d+, 1, 1, 4\) of torch\.float32",
    "mine_attacks:bad_step": r"the step of `mine_attacks:bad_step` must return points, got ZeroDivisionError",
}


@pytest.mark.parametrize(("attack", "says"), WRONG.items(), ids=WRONG)
def test_what_is_no_attack_is_said_in_one_line(attack, says):
    with pytest.raises(ValueError, match=says) as caught:
        run(threat(attack))
    assert "\n" not in str(caught.value)


def test_a_run_goes_on_only_with_the_same_code(tmp_path, capsys):
    values = FIELDS | {"attack": "mine_attacks:known"}
    lines = [f"{field} = {value!r}" for field, value in values.items() if field != "name"]
    (tmp_path / "mine.toml").write_text("\n".join(lines))
    words = "run --detector energy@ce --ood noise --samples 4 --threat mine.toml --out there"
    assert main(words.split()) == 0
    assert main(["verify", "there"]) == 0
    (tmp_path / "there" / "manifest.json").unlink()  # as if it had been cut
    (tmp_path / "mine_attacks.py").write_text(CODE + "\n# changed\n")
    capsys.readouterr()
    assert main(["run", "--resume", "there"]) == 2
    assert "mine_attacks:known" in capsys.readouterr().err
