"""The threat models that ship: published evaluations with the numbers of their papers, and where each comes from."""

import re

import pytest

from oodattack.threat import Sweep, ThreatModel, members_of, presets, read_threat

# Written down from the papers a second time: norm, eps, aim, attack, queries, restarts.
REPLAYS = {
    "aloe": ("linf", 1 / 255, "both", "pgd", 12, 1),
    "atom": ("linf", 8 / 255, "hide", "pgd", 42, 1),
    "good-mnist": ("linf", 0.3, "hide", "apgd", 2506, 5),
    "good-svhn": ("linf", 0.03, "hide", "apgd", 2506, 5),
    "good-cifar": ("linf", 0.01, "hide", "apgd", 2506, 5),
    "atd-in": ("linf", 8 / 255, "raise", "pgd", 102, 1),
    "atd-out": ("linf", 8 / 255, "hide", "pgd", 102, 1),
    "atd-both": ("linf", 8 / 255, "both", "pgd", 102, 1),
    "rodeo-32": ("linf", 8 / 255, "both", "pgd", 1002, 1),
    "rodeo-224": ("linf", 2 / 255, "both", "pgd", 1002, 1),
    "imagenet-4": ("linf", 4 / 255, "both", "pgd", 102, 1),
    "l2-0.5": ("l2", 0.5, "raise", "apgd", 506, 5),
    "l2-1": ("l2", 1, "hide", "apgd", 506, 5),
    "l2-7": ("l2", 7, "hide", "apgd", 506, 5),
    "square-5k": ("linf", 8 / 255, "both", "square", 5000, 1),
    "nes-10k": ("linf", 8 / 255, "both", "nes", 10000, 1),
    "spsa-10k": ("linf", 8 / 255, "both", "spsa", 10000, 1),
    "hop-skip-jump": ("l2", 10, "cross", "hop-skip-jump", 5000, 1),
    "rays": ("linf", 1, "cross", "rays", 10000, 1),
    "fmn-linf": ("linf", 1, "cross", "fmn", 1002, 1),
    "fmn-l2": ("l2", 10, "cross", "fmn", 1002, 1),
    "transfer": ("linf", 8 / 255, "both", "apgd", 50, 1),
    "eot-20": ("linf", 8 / 255, "both", "apgd", 1000, 1),
    "bpda-odin": ("linf", 8 / 255, "both", "apgd", 50, 1),
    "rubbish": ("linf", 1, "hide", "apgd", 50, 1),
    "adex-id": ("linf", 8 / 255, "hide", "pgd", 42, 1),
    "patch-8": ("patch", 8, "both", "pgd", 42, 1),
    "patch-60": ("patch", 60, "both", "pgd", 42, 1),
    "semantic-affine": ("linf", 1, "hide", "affine", 776, 1),
    "semantic-colour": ("linf", 1, "hide", "colour", 101, 1),
    "semantic-stadv": ("linf", 1, "hide", "stadv", 102, 1),
    "semantic-recolor": ("linf", 1, "hide", "recolor", 102, 1),
} | {f"corruptions-{s}": ("linf", 1, "both", "corruptions", 18, 1) for s in range(1, 6)}

# what Algorithm 1 of Liang et al. matches, eps, steps, start
LIANG = {
    "liang-latent": ("latent", 10, 1000, "ood"),
    "liang-logit": ("logits", 10, 100, "ood"),
    "liang-score": ("score", 10, 1000, "ood"),
    "liang-latent-10000": ("latent", 10, 10000, "ood"),
    "liang-logit-10000": ("logits", 10, 10000, "ood"),
    "liang-logit-spiral": ("logits", 10, 1000, "colour-spiral"),
    "liang-score-100": ("score", 10, 100, "ood"),
    "liang-score-10000": ("score", 10, 10000, "ood"),
    "liang-latent-224-5": ("latent", 5, 10000, "ood"),
    "liang-latent-224-20": ("latent", 20, 10000, "noise"),
    "liang-latent-224-30": ("latent", 30, 10000, "noise"),
}
SINGLE = [name for name in presets() if isinstance(read_threat(name), ThreatModel)]


@pytest.mark.parametrize("name", REPLAYS)
def test_replays_have_the_numbers_of_their_papers(name):
    t = read_threat(name)
    assert (t.norm, pytest.approx(t.eps), t.aim, t.attack, t.queries, t.restarts) == REPLAYS[name]
    assert t.iterate == "best"
    assert re.search(r"arXiv:\d{4}\.\d{5}|ICML|ours", t.source)


@pytest.mark.parametrize("name", LIANG)
def test_algorithm_1_of_liang(name):
    t = read_threat(name)
    assert (t.match, t.eps, t.queries - 1, t.start) == LIANG[name]
    assert (t.norm, t.aim, t.attack, t.init, t.step_size, t.paired) == ("l2", "match", "adamax", "sphere", 0.01, False)
    assert "arXiv:2009.08016" in t.source


@pytest.mark.parametrize(
    ("name", "norm", "top", "lowest"), [("fort-linf", "linf", 0.0084, 0.001), ("fort-l2", "l2", 1.6, 0.5)]
)
def test_sweeps_cover_the_published_range(name, norm, top, lowest):
    sweep = read_threat(name)
    assert isinstance(sweep, Sweep)
    radii = [m.eps for m in sweep.members]
    assert len(radii) == 8 and radii[-1] == pytest.approx(top)
    assert radii == pytest.approx([top * k / 8 for k in range(1, 9)])
    assert radii[0] <= 1.1 * lowest  # where the weakest detector of the paper is at chance
    assert all((m.norm, m.step_size, m.queries, m.init) == (norm, 1, 3, "clean") for m in sweep.members)  # one step


def test_what_the_special_fields_say():
    read = {name: read_threat(name) for name in ("transfer", "eot-20", "adex-id", "rubbish", "rays", "bpda-odin")}
    assert {name: t.objective for name, t in read.items()} == {
        "transfer": "logits", "eot-20": "score", "adex-id": "misclassify", "rubbish": "score", "rays": None,
        "bpda-odin": "score",
    }  # fmt: skip
    assert {name: t.start for name, t in read.items() if t.start != "ood"} == {"adex-id": "id", "rubbish": "noise"}
    assert (read["eot-20"].draws, read["eot-20"].queries // read["eot-20"].draws) == (20, 50)
    assert [read_threat(f"corruptions-{s}").severity for s in range(1, 6)] == [1, 2, 3, 4, 5]
    limits = {name: read_threat(f"semantic-{name}").limit for name in ("affine", "colour", "stadv", "recolor")}
    assert limits == {"affine": 1, "colour": 0.4, "stadv": 0.025, "recolor": 0.06}


def test_the_classifier_question_is_labelled():
    text = presets()["adex-id"].read_text(encoding="utf-8")
    assert text.startswith("# A DIFFERENT QUESTION")


@pytest.mark.parametrize("name", presets())
def test_every_file_says_what_it_is_and_where_it_comes_from(name):
    text = presets()[name].read_text(encoding="utf-8")
    assert text.startswith("# ") and text.endswith("\n")
    assert re.fullmatch(r"[a-z0-9.-]+", name)
    threat = read_threat(name)
    assert threat.name == name and len(threat.source) > 10
    assert all(member.source for member in members_of(threat))


@pytest.mark.parametrize("name", [n for n in SINGLE if read_threat(n).attack == "pgd"])
def test_steps_can_cross_the_ball(name):
    t = read_threat(name)
    steps = t.queries // t.restarts - 2
    reach = t.step_size * steps  # of eps, or of the range of a pixel
    assert reach >= 1


def test_no_two_files_are_the_same_evaluation():
    seen = {}
    for name in SINGLE:
        fields = read_threat(name).model_dump(exclude={"name", "source"})
        seen.setdefault(repr(fields), []).append(name)
    twins = [names for names in seen.values() if len(names) > 1]
    assert twins == [["atom", "linf-8-255-pgd"]]  # the member of a suite, and the paper by its name
