"""Threat files: what ships, what is refused, and in which words."""

import tomllib
from pathlib import Path

import pytest
import torch

from oodattack.data import START_PICTURES
from oodattack.threat import (
    STARTS,
    Suite,
    Sweep,
    ThreatModel,
    each_radius,
    file_hash,
    members_of,
    preset_folder,
    presets,
    read_threat,
)

REQUIRED = [
    "sanity-random",
    "sanity-full-box",
    "liang-latent",
    "liang-logit",
    "liang-score",
    "liang-quantile",
    "linf-8-255",
    "l2-1",
    "atd-in",
    "atd-out",
    "atd-both",
    "flagship",
]
LINF = (preset_folder() / "linf-8-255.toml").read_text(encoding="utf-8")
FIELDS = tomllib.loads(LINF)
MATCH = (preset_folder() / "liang-logit.toml").read_text(encoding="utf-8")


@pytest.fixture
def write(tmp_path):
    """Write a threat file; returns its path."""

    def writer(text: str, name: str = "mine.toml") -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return writer


def changed(text: str, **fields: str) -> str:
    """The file with some values replaced; each must be there."""
    for field, value in fields.items():
        before = [line for line in text.splitlines() if line.startswith(f"{field} =")]
        assert len(before) == 1, field
        text = text.replace(before[0], f"{field} = {value}")
    return text


def test_required_presets_ship():
    assert set(REQUIRED) <= set(presets())


@pytest.mark.parametrize("name", presets())
def test_every_shipped_file_reads(name):
    threat = read_threat(name)
    assert threat.name == name
    assert len(threat.source) > 10
    assert threat == read_threat(presets()[name])  # by name and by path
    assert members_of(threat)
    for member in members_of(threat):
        assert member.attacks_id or member.attacks_ood


def test_what_the_presets_say():
    linf, box, suite = read_threat("linf-8-255"), read_threat("sanity-full-box"), read_threat("flagship")
    assert (linf.norm, linf.aim, linf.attack, linf.iterate) == ("linf", "hide", "apgd", "best")
    assert linf.eps == 8 / 255
    assert {(m.norm, m.eps) for m in box.members} == {("linf", 1)} and box.queries == 500
    assert [m.attack for m in box.members] == ["apgd", "pgd-decay", "adamax"]
    assert isinstance(suite, Suite)
    assert [read_threat(f"atd-{side}").aim for side in ("in", "out", "both")] == ["raise", "hide", "both"]
    assert [read_threat(f"liang-{z}").match for z in ("latent", "logit", "score")] == ["latent", "logits", "score"]
    assert read_threat("sanity-random").attack == "random-search"


def test_the_wheel_carries_the_threat_models():
    project = Path(__file__).parent.parent / "pyproject.toml"
    wheel = tomllib.loads(project.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"]["threat_models"] == "oodattack/threat_models"
    assert "oodattack" in wheel["packages"]


@pytest.mark.parametrize("field", FIELDS)
def test_no_field_has_a_default(field, write):
    text = "\n".join(line for line in LINF.splitlines() if not line.startswith(f"{field} ="))
    path = write(text)
    with pytest.raises(
        ValueError, match=f"^{path}: `{field}` (must be given|is needed with .*), got [nN]o.* Add it"
    ) as caught:
        read_threat(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "expected"),
    [('"8/255"', 8 / 255), ('"1/2"', 0.5), ("0.25", 0.25), ("1", 1.0), ('"0.5"', 0.5), ('" 3 / 4 "', None)],
)
def test_fractions(written, expected, write):
    path = write(changed(LINF, eps=written))
    if expected is None:
        with pytest.raises(ValueError, match=r'`eps` must be a number such as 0\.03 or "8/255"'):
            read_threat(path)
    else:
        assert read_threat(path).eps == expected


WRONG = {
    "eps of 8": ({"eps": "8"}, r"`eps` must be in \(0, 1\] for linf, got 8\. Write 8/255, not 8\."),
    "eps of 0": ({"eps": "0"}, "`eps` must be greater than 0, got 0"),
    "eps negative": ({"eps": '"-8/255"'}, "`eps` must be greater than 0"),
    "eps nan": ({"eps": "nan"}, "`eps` must be a finite number, got nan"),
    "eps infinite": ({"eps": "inf"}, "`eps` must be a finite number, got inf"),
    "eps in words": ({"eps": '"small"'}, '`eps` must be a number such as 0.03 or "8/255", got .small.'),
    "eps by zero": ({"eps": '"1/0"'}, '`eps` must be a number such as 0.03 or "8/255", got .1/0.'),
    "eps in percent": ({"eps": '"3%"'}, '`eps` must be a number such as 0.03 or "8/255", got .3%.'),
    "eps that no tensor holds": (
        {"norm": '"l2"', "eps": "1e39"},
        "`eps` must be less than or equal to 1000000000, got",
    ),
    "eps that tensors round to 0": ({"eps": "1e-45"}, "`eps` must be >= 1e-30, got 1e-45. Tensors hold no smaller"),
    "queries that no tensor holds": (
        {"queries": "99999999999999999999"},
        "`queries` must be less than or equal to 1000000000, got 99999999999999999999",
    ),
    "eps true": ({"eps": "true"}, "`eps` must be a valid number, got True"),
    "norm": ({"norm": '"l3"'}, "`norm` must be 'linf', 'l2', 'l1' or 'patch', got 'l3'"),
    "aim": ({"aim": '"seek"'}, "`aim` must be 'hide', .*'cross', got 'seek'"),
    "start": ({"start": '"spiral"'}, "`start` must be one of ood, .* or picture:PATH, got 'spiral'"),
    "attack": (
        {"attack": '"fgsm"'},
        "`attack` must be one of pgd, .*torchattacks:NAME or pkg.mod:callable, got 'fgsm'",
    ),
    "queries in quotes": ({"queries": '"50"'}, "`queries` must be a valid integer, got '50'"),
    "queries broken": ({"queries": "50.5"}, "`queries` must be a valid integer, got 50.5"),
    "too few queries": ({"queries": "1"}, "`queries` must be >= 2 a restart, got 1 for 1. Raise it"),
    "restarts": ({"restarts": "0"}, "`restarts` must be greater than or equal to 1, got 0"),
    "grid again": (
        {"attack": '"affine"\nlimit = 1.0', "restarts": "2"},
        "`restarts` must be 1 for affine, got 2. Its grid is the same in each",
    ),
    "iterate": ({"iterate": '"first"'}, "`iterate` must be 'best' or 'last', got 'first'"),
    "empty source": ({"source": '""'}, "`source` must have at least 1 character, got ''"),
    "match without aim": ({"aim": '"hide"\nmatch = "latent"'}, "`match` belongs only to aim = \"match\", got 'latent'"),
    "match aim alone": ({"aim": '"match"'}, '`match` is needed with aim = "match", got None. Add it'),
    "quantile aim alone": ({"aim": '"quantile"'}, '`quantile` is needed with aim = "quantile", got None'),
    "quantile of 2": ({"aim": '"quantile"\nquantile = 2'}, "`quantile` must .*less than or equal to 1, got 2"),
    "step size for apgd": (
        {"attack": '"apgd"\nstep_size = 0.1'},
        "`step_size` belongs only to attack = pgd or adamax, got 0.1",
    ),
    "pgd without step": ({"attack": '"pgd"'}, "`step_size` is needed with attack = pgd or adamax, got None"),
    "step of 3 eps": ({"attack": '"pgd"\nstep_size = 3'}, "`step_size` must .*less than or equal to 2, got 3"),
    "match aim with objective": (
        {"aim": '"match"\nmatch = "latent"\npaired = true'},
        "`objective` belongs only to aim = hide or raise or both, got 'score'. Drop it",
    ),
    "severity": ({"attack": '"apgd"\nseverity = 3'}, '`severity` belongs only to attack = "corruptions", got 3'),
    "severity 6": ({"attack": '"corruptions"\nseverity = 6'}, "`severity` must .*less than or equal to 5, got 6"),
    "limit": ({"attack": '"stadv"'}, "`limit` is needed with attack = affine or colour or stadv or recolor, got None"),
    "draws": ({"queries": "15\ndraws = 10"}, "`queries` must be >= 2 a restart, got 15 for 1 of 10 draws. Raise it"),
    "cross by apgd": (
        {"objective": '"score"', "aim": '"cross"'},
        "`objective` belongs only to",
    ),
    "fmn that hides": ({"attack": '"fmn"'}, "`aim` must be cross for fmn, got 'hide'. Change either."),
    "misclassify and raise": (
        {"aim": '"raise"', "objective": '"misclassify"'},
        "`objective` misclassify needs aim = hide, got 'raise'",
    ),
    "half a pixel": ({"norm": '"patch"', "eps": "2.5"}, r"`eps` must be a whole number of pixels for patch, got 2\.5"),
    "torchattacks nobody": ({"attack": '"torchattacks:"'}, "`attack` must be one of pgd, "),
    "unknown field": ({"aim": '"hide"\ndirection = "hide"'}, r"`direction` must be a known field \(norm, eps, .*\)"),
    "torchattacks' word": ({"aim": '"hide"\nsteps = 50'}, "`steps` must be a known field, .* Did you mean `queries`"),
    "foolbox's word": ({"aim": '"hide"\nepsilon = 0.03'}, "`epsilon` must be a known field, .* Did you mean `eps`"),
    "own name": ({"aim": '"hide"\nname = "x"'}, "`name` is the file's own name, got 'x'. Drop the field"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_fields_are_named(changes, message, write):
    path = write(changed(LINF, **changes))
    with pytest.raises(ValueError, match=f"^{path}: {message}") as caught:
        read_threat(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inside", ["", 'members = [{name = "a"}]\n'])
def test_a_misspelt_field_is_named_and_not_the_one_that_is_missing(write, inside):
    path = write(inside + LINF.replace("queries", "querys"))
    with pytest.raises(ValueError, match=r"`querys` must be a known field, got .*\. Did you mean `queries`\?$"):
        read_threat(path)


def test_paired_is_needed_for_matching_only(write):
    with pytest.raises(ValueError, match="`paired` is needed with aim"):
        read_threat(write("\n".join(line for line in MATCH.splitlines() if not line.startswith("paired"))))
    with pytest.raises(ValueError, match="`paired` belongs only to aim"):
        read_threat(write(LINF + "\npaired = true\n"))


FILES = {
    "not TOML": ("norm: linf", "threat file must be readable TOML, got TOMLDecodeError: .*Correct the file"),
    "members no list": (
        'members = "linf-8-255"\nsource = "s"',
        "`members` must be a list of threat names or of tables, got 'linf-8-255'",
    ),
    "members no names": (
        "members = [1, 2]\nsource = 's'",
        r"`members` must be a list of threat names or of tables, got \[1, 2\]",
    ),
    "no members": ("members = []\nsource = 's'", "`members` must .*at least 1 item"),
    "itself": (
        'members = ["mine.toml"]\nsource = "s"',
        "`members` must not name the suite itself, got 'mine'. Drop it",
    ),
    "itself by name": ('members = ["mine"]\nsource = "s"', "`members` must not name the suite itself"),
    "a suite": (
        'members = ["flagship"]\nsource = "s"',
        "`members` must be single threat models, got 'flagship', which is several",
    ),
    "unknown": ('members = ["nothing"]\nsource = "s"', None),
    "disagree": (
        'members = ["linf-8-255", "l2-1"]\nsource = "s"',
        "`members` must agree in `norm`, got linf in linf-8-255, l2",
    ),
    "sides": (
        'members = ["linf-8-255", "atd-in"]\nsource = "s"',
        "`members` must agree in the side that their `aim` attacks, got hide in linf-8-255, raise in atd-in",
    ),
    "eps": ('members = ["linf-8-255", "aloe"]\nsource = "s"', "`members` must agree in `eps`, got 0.03"),
    "no source": ('members = ["linf-8-255"]', "`source` must be given, got nothing"),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_wrong_files_are_refused(text, message, write):
    path = write(text)
    with pytest.raises(ValueError, match=message and f"^{path}: {message}") as caught:
        read_threat(path)
    assert "\n" not in str(caught.value)


def test_suites_that_name_one_another_are_refused(write):
    write('members = ["two.toml"]\nsource = "s"', "one.toml")
    path = write('members = ["one.toml"]\nsource = "s"', "two.toml")
    with pytest.raises(ValueError, match="`members` must be single threat models, got 'one', which is several"):
        read_threat(path)


def test_members_of_one_name_may_not_hide_that_they_disagree(write):
    write(changed(LINF, eps="0.5"), "linf-8-255.toml")
    path = write('members = ["linf-8-255", "linf-8-255.toml"]\nsource = "s"')
    with pytest.raises(ValueError, match=r"`members` must agree in `eps`, got 0\.03.* in linf-8-255, 0\.5 in linf-8"):
        read_threat(path)


def test_members_are_found_beside_the_suite(write):
    write(changed(LINF, eps="0.5"), "beside.toml")
    suite = read_threat(write('members = ["beside.toml"]\nsource = "s"'))
    assert [m.eps for m in members_of(suite)] == [0.5]


def test_missing_file_and_unknown_name(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.toml: threat file must exist, but it does not\. Check the path"):
        read_threat(tmp_path / "nowhere.toml")
    with pytest.raises(ValueError, match=r"readable TOML, got IsADirectoryError"):
        (tmp_path / "folder.toml").mkdir()
        read_threat(tmp_path / "folder.toml")
    with pytest.raises(
        ValueError, match=r"Did you mean 'linf-8-255'\? `threat` must be one of .*FILE.toml, got 'linf8-255'\."
    ):
        read_threat("linf8-255")


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="readable TOML, got UnicodeDecodeError"):
        read_threat(tmp_path / "b.toml")


def test_hash_follows_fields_and_not_comments(write):
    def sha(text):
        return file_hash(read_threat(write(text)))

    plain = sha(LINF)
    assert len(plain) == 64
    assert sha("# another comment\n" + LINF + "\n# one more") == plain
    assert sha(changed(LINF, eps=str(8 / 255))) == plain  # written otherwise, the same number
    changes = {
        "norm": '"l2"', "eps": '"7/255"', "aim": '"raise"', "objective": '"logits"', "start": '"noise"',
        "init": '"clean"', "attack": '"random-search"', "queries": "49", "restarts": "2", "iterate": '"last"',
        "source": '"another"',
    }  # fmt: skip
    assert set(changes) == set(FIELDS)
    assert len({plain, *(sha(changed(LINF, **{field: value})) for field, value in changes.items())}) == 1 + len(FIELDS)


def test_hash_of_a_suite_follows_its_members(write):
    write(LINF, "one.toml")
    suite = write('members = ["one.toml"]\nsource = "s"')
    before = file_hash(read_threat(suite))
    write(changed(LINF, queries="51"), "one.toml")
    assert file_hash(read_threat(suite)) != before


def test_sides_and_targets():
    made = {aim: read_threat("linf-8-255").model_copy(update={"aim": aim}) for aim in ("hide", "raise", "both")}
    assert [(t.attacks_id, t.attacks_ood) for t in made.values()] == [(False, True), (True, False), (True, True)]
    assert not any(t.needs_targets for t in made.values())
    assert read_threat("liang-quantile").needs_targets
    match = read_threat("liang-logit")
    assert match.needs_targets
    assert not match.model_copy(update={"paired": True}).needs_targets


def test_starts_are_those_that_the_data_room_draws():
    assert set(STARTS) == {"ood", "id", "noise", *START_PICTURES}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_settled_points_are_allowed(norm):
    threat = ThreatModel(**(read_threat("linf-8-255").model_dump() | {"norm": norm, "eps": 0.3}))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 1, 3, 3, dtype=torch.float64, generator=generator)
    far = x + torch.randn(x.shape, dtype=torch.float64, generator=generator)
    settled = threat.settle(far, x)
    assert (threat.distance(settled, x) <= 0.3 * (1 + 1e-9)).all()
    assert ((settled >= 0) & (settled <= 1)).all()
    assert torch.equal(threat.settle(x, x), x)


def test_a_threat_model_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        read_threat("linf-8-255").eps = 1


SUITE = """
norm = "linf"
eps = "8/255"
aim = "hide"
start = "ood"
init = "ball"
restarts = 1
iterate = "best"
queries = 60
source = "test"

[[members]]
name = "white"
attack = "apgd"
objective = "score"
queries = 20

[[members]]
name = "near"
attack = "fmn"
aim = "cross"
init = "clean"
queries = 10
"""


def test_members_of_a_suite_complete_the_fields_at_its_top(write):
    suite = read_threat(write(SUITE, "aa.toml"))
    white, near = members_of(suite)
    assert (suite.queries, white.queries, near.queries) == (60, 20, 10)
    assert (white.name, white.aim, white.objective) == ("aa/white", "hide", "score")
    assert (near.name, near.aim, near.objective, near.init) == ("aa/near", "cross", None, "clean")
    assert white.eps == near.eps == 8 / 255


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('objective = "score"', 'objective = "scores"', "member 'white': `objective` must be 'score', .*got 'scores'"),
        ('name = "white"', "", r"`members` must each have a `name`, got \{'attack': 'apgd'"),
        ('name = "white"', 'name = "near"', r"`members` must differ in name, got \['wrong/near', 'wrong/near'\]"),
        (
            'iterate = "best"',
            'iterate = "last"',
            "`members` that share `queries` must hide, raise or cross and keep the",
        ),
        ("queries = 60", "queries = 1", "`queries` must be greater than or equal to 2, got 1"),
        ("queries = 60", "queries = 19", "`queries` must be >= those of each member, got 19 and 20 in wrong/white"),
    ],
)
def test_wrong_suites_with_tables_are_refused(old, new, message, write):
    assert old in SUITE
    path = write(SUITE.replace(old, new, 1), "wrong.toml")
    with pytest.raises(ValueError, match=f"^{path}: {message}") as caught:
        read_threat(path)
    assert "\n" not in str(caught.value)


def test_a_list_of_radii_is_a_sweep(write):
    sweep = read_threat(write(changed(LINF, eps='["1/255", "2/255", 0.5]')))
    assert isinstance(sweep, Sweep)
    assert [m.eps for m in sweep.members] == [1 / 255, 2 / 255, 0.5]
    assert [m.name for m in sweep.members] == ["mine@1/255", "mine@2/255", "mine@0.5"]
    assert each_radius(sweep) == sweep.members
    for wrong, message in (
        ("[0.5, 0.1]", "`eps` must rise"),
        ("[0.1]", "`eps` must be a radius or a list of at least 2, got"),
        ("[]", "at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            read_threat(write(changed(LINF, eps=wrong)))


def test_after_names_another_threat_model(write):
    path = write(LINF + '\nafter = "sanity-random"', "then.toml")
    assert read_threat(path).after == read_threat("sanity-random")
    write(LINF, "first.toml")
    assert read_threat(write(LINF + '\nafter = "first.toml"', "then.toml")).after.name == "first"
    for wrong in ("flagship", "fort-linf", "atom-comp", "then"):
        with pytest.raises(ValueError, match="`after` must name another single threat model, got"):
            read_threat(write(LINF + f'\nafter = "{wrong}"', "then.toml"))
    with pytest.raises(ValueError, match=r"then.toml: `after` must be one of"):
        read_threat(write(LINF + '\nafter = "nothing"', "then.toml"))


def test_wrong_fields_are_told_in_one_line_from_python_too():
    fields = read_threat("linf-8-255").model_dump()
    for wrong, words in (
        ({"queries": -5}, "`queries` must be greater than or equal to 1, got -5. Correct the field."),
        ({"eps": 8}, "`eps` must be in (0, 1] for linf, got 8. Write 8/255, not 8."),
        ({"radius": 1}, "`radius` must be a known field (norm, eps, "),
    ):
        with pytest.raises(ValueError) as caught:
            ThreatModel(**fields | wrong)
        assert str(caught.value).startswith(words) and "\n" not in str(caught.value)
    del fields["norm"]
    with pytest.raises(ValueError, match=r"^`norm` must be given, got nothing\. Add it"):
        ThreatModel(**fields)
    bad = fields | {"norm": "linf", "eps": 2.0}
    with pytest.raises(
        ValueError, match=r"^members\.0: `eps` must be in \(0, 1\] for linf, got 2\. Write 8/255, not 8\.$"
    ):
        Suite(name="one", members=(bad,), source="test")
    with pytest.raises(ValueError, match=r"^`members` must differ in name, got .*Rename one\.$"):
        Suite(name="twice", members=(read_threat("linf-8-255"),) * 2, source="test")


def test_after_has_no_after_of_its_own():
    first = read_threat("linf-8-255")
    then = first.model_copy(update={"after": first})
    with pytest.raises(ValueError, match=r"`after` must have no `after` of its own, got 'linf-8-255' with one\. Drop"):
        ThreatModel(**first.model_dump() | {"after": then})


@pytest.mark.parametrize("attack", ["pgd-decay", "apgd", "lbfgs"])
def test_restarts_that_would_all_be_the_same_are_refused(write, attack):
    again = changed(LINF, attack=f'"{attack}"', init='"clean"', restarts=2)
    with pytest.raises(ValueError, match=f"`restarts` must be 1 for {attack} from `init` clean, got 2. Write ball"):
        read_threat(write(again))
    kept = ThreatModel(name="kept", **tomllib.loads(again))
    assert ThreatModel.model_validate_json(kept.model_dump_json()) == kept  # as an older run may have written it
    read_threat(write(changed(again, objective='"latent"')))  # each has a target of its own
    read_threat(write(changed(again, init='"ball"')))
    read_threat(write(again + "\ndraws = 2"))  # of a score that is random


def test_after_in_a_circle_is_refused_in_one_line(write):
    write(LINF + '\nafter = "b.toml"', "a.toml")
    for text, name in (('\nafter = "a.toml"', "b.toml"), ('\nafter = "itself.toml"', "itself.toml")):
        with pytest.raises(ValueError, match=f"{name}: `after` must name another single threat model, got"):
            read_threat(write(LINF + text, name))


def test_after_is_a_name_or_a_file_in_sweeps_and_members_too(write):
    write(LINF, "first.toml")
    sweep = read_threat(write(changed(LINF, eps='["1/255", "2/255"]') + '\nafter = "first.toml"'))
    assert [m.after.name for m in sweep.members] == ["first", "first"]
    after, table = '\nafter = "first.toml"', '\n[[members]]\nname = "u"\nqueries = 50'
    top = "\n".join(line for line in LINF.splitlines() if not line.startswith("queries"))  # else they share them
    for text in (table + after, after + table):
        assert read_threat(write(top + text)).members[0].after.name == "first"


def test_members_of_a_suite_start_from_the_same_images(write):
    write(LINF, "first.toml")
    write(LINF + '\nafter = "first.toml"', "then.toml")
    with pytest.raises(ValueError, match="`members` must agree in `after`, got None in first, first in then"):
        read_threat(write('members = ["first.toml", "then.toml"]\nsource = "test"'))
    with pytest.raises(ValueError, match="share `queries` must start from the images of the set, got `after` in then"):
        read_threat(write('members = ["then.toml"]\nqueries = 200\nsource = "test"'))


def test_an_unknown_member_names_the_suite(write):
    with pytest.raises(ValueError, match=r"mine.toml: `members` must be one of .* got 'nope'"):
        read_threat(write('members = ["linf-8-255", "nope"]\nsource = "test"'))


def test_a_search_for_the_threshold_needs_an_attack_for_it():
    fields = read_threat("linf-8-255").model_dump() | {"name": "near", "aim": "cross", "objective": None}
    says = r"^`attack` must be one of fmn, ddn, rays, hop-skip-jump for aim = cross, got 'apgd'\. Change either\.$"
    with pytest.raises(ValueError, match=says):
        ThreatModel(**fields)
