"""NAME@EPS: a threat model at another radius."""

import pytest
import torch

from oodattack.evaluation import evaluate
from oodattack.evaluation.members import short_name
from oodattack.threat import Suite, Sweep, in_short, members_of, read_threat


def brightness(x):
    return x.mean((1, 2, 3))


def without(model, *fields: str) -> dict:
    return {field: value for field, value in vars(model).items() if field not in ("name", *fields)}


def test_a_single_one_changes_in_its_radius_alone():
    here, there = read_threat("l2-0.5"), read_threat("l2-0.5@1/4")
    assert (there.name, there.eps) == ("l2-0.5@1/4", 0.25)
    assert without(there, "eps") == without(here, "eps")


@pytest.mark.parametrize("name", ["ood-aa", "flagship", "sanity-full-box"])
def test_a_suite_changes_in_the_radius_of_every_member(name):
    here, there = read_threat(name), read_threat(f"{name}@2/255")
    assert isinstance(there, Suite) == isinstance(here, Suite)
    assert there.name == f"{name}@2/255"
    assert {m.eps for m in members_of(there)} == {2 / 255}
    for mine, other in zip(members_of(here), members_of(there), strict=True):
        assert without(other, "eps") == without(mine, "eps")
        assert other.name in (f"{mine.name}@2/255", mine.name.replace(name, there.name))


def test_several_radii_are_a_sweep():
    sweep = read_threat("linf-8-255@1/255,2/255,0.02")
    assert isinstance(sweep, Sweep)
    assert [m.eps for m in sweep.members] == [1 / 255, 2 / 255, 0.02]
    assert [m.name for m in sweep.members] == [f"linf-8-255-swept@{eps}" for eps in ("1/255", "2/255", "0.02")]


@pytest.fixture
def write(tmp_path):
    def write(name: str, eps: str) -> str:
        (tmp_path / name).write_text(f"""
            norm = "l2"\neps = {eps}\naim = "hide"\nobjective = "score"\nstart = "ood"\ninit = "clean"
            attack = "apgd"\nqueries = 5\nrestarts = 1\niterate = "best"\nsource = "test"
        """)
        return str(tmp_path / name)

    return write


def test_a_file_may_be_meant_and_may_have_an_at_in_its_name(write):
    file = write("mine@3.toml", "1")
    assert read_threat(file).eps == 1
    found = read_threat(f"{file}@1/2")
    assert (found.name, found.eps) == ("mine@3@1/2", 0.5)


WRONG = {
    "linf-8-255@8": r"threat 'linf-8-255@8': `eps` must be in \(0, 1\] for linf, got 8\. Write 8/255, not 8\.",
    "linf-8-255@": "`eps` must be a number such as",
    "linf-8-255@2/255,1/255": r"`eps` must rise from radius to radius, got .* Sort them",
    "ood-aa@1/255,2/255": r"must have one radius, got 2 for a suite\. Write --threat ood-aa@1/255 --threat ood-aa@2",
    "semantic-colour@0.1": "must be ruled by `eps` alone, got `limit` in semantic-colour. Write a file",
    "corruptions-3@0.1": "must be ruled by `eps` alone, got `severity`",
    "nothing@1/255": r"`threat` must be one of .*, got 'nothing'",
    "missing.toml@1/255": r"missing\.toml: threat file must exist",
}


@pytest.mark.parametrize(("name", "says"), WRONG.items(), ids=WRONG)
def test_what_has_no_other_radius_is_said_in_one_line(name, says):
    with pytest.raises(ValueError, match=says) as caught:
        read_threat(name)
    assert "\n" not in str(caught.value)


def test_a_sweep_has_no_other_radius(write):
    with pytest.raises(ValueError, match=r"threat 's@3' must have one radius before, got a sweep over some"):
        read_threat(f"{write('s.toml', '[1, 2]')}@3")


def test_radii_are_attacked_and_members_keep_their_short_names():
    x = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    threats = ["ood-aa@0.05", "flagship@0.05", "linf-8-255@0.01,0.05"]
    report = evaluate(brightness, id=0.40 + 0.1 * x[:20], ood={"near": 0.43 + 0.1 * x[20:]}, threats=threats, seed=0)
    suite, flagship, small, large = report.results
    assert next(iter(suite.members)) == "score"
    renamed = read_threat("ood-aa").model_copy(update={"name": "mine"})
    assert [short_name(m, renamed) for m in renamed.members][:2] == ["score", "small-steps"]
    assert set(flagship.members) == {"linf-8-255@0.05", "linf-8-255-pgd-20@0.05", "linf-8-255-random@0.05"}
    assert small.distance == pytest.approx(0.01, rel=1e-5)
    assert large.distance == pytest.approx(0.05, rel=1e-5)
    assert suite.attacked.auroc <= large.attacked.auroc < small.attacked.auroc
    assert report.swept == {"linf-8-255-swept"}


def test_who_gives_a_suite_a_radius_is_told_how():
    changed = read_threat("ood-aa").model_copy(update={"eps": 2 / 255, "name": "mine"})
    x = torch.rand(4, 1, 4, 4)
    with pytest.raises(ValueError, match=r"`eps` must be a known field .* Read NAME@EPS for another radius\."):
        evaluate(brightness, id=x[:2], ood={"near": x[2:]}, threats=changed, seed=0)


@pytest.mark.parametrize("eps", ["2/255", "0.01", "1", "1e-13"])
def test_a_radius_is_told_as_a_fraction_where_it_is_one_and_never_as_nothing(eps):
    assert in_short(read_threat(f"linf-8-255@{eps}"))["limits"] == f"linf {eps}"
