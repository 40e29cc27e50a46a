"""Rows at their full size, and from the command line to a row: networks, validation images, refusals."""

import json
import math

import numpy as np
import pytest
import quick_threat
import torch
from safetensors.torch import save_file
from small_rows import NETWORKS, ROWS, SIZES, SMALL, param
from torch import nn

from oodattack.classifier import Classifier
from oodattack.cli import main
from oodattack.detectors import DETECTORS, Fit
from oodattack.job import Job
from oodattack.job import run as run_job
from oodattack.job.detectors import build_detector, split_name
from oodattack.job.id_classes import id_classes
from oodattack.job.images import VALIDATION, fit_images, fit_moved
from oodattack.job.networks import Network
from oodattack.job.suited import check_open, check_outlier_class
from oodattack.models.exits import ExitNet
from oodattack.models.small import SmallResNet

FITS = {"auto-encoder": "fit_auto_encoder", "glow": "fit_glow", "glow-png": "fit_glow", "ccu": "fit_ccu"}
CPU = torch.device("cpu")


def images(rows, *, size=4, seed=0):
    return torch.rand(rows, 1, size, size, generator=torch.Generator().manual_seed(seed))


# --- small rows and full-sized ones -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_a_row_fits_with_the_defaults_and_seed_0(monkeypatch, name):
    seen = []

    def fit(*args, **options):
        seen.append((args, options))
        raise InterruptedError

    monkeypatch.setattr("oodattack.detectors.table." + FITS[name], fit)
    given = Fit(images(6), torch.arange(6))
    with pytest.raises(InterruptedError):
        DETECTORS[name].build("net", given)
    ((args, options),) = seen
    assert options == {"seed": 0}  # what small rows have more of is in `SIZES`
    assert args[-1] is given.x and len(args) == (2 if name == "ccu" else 1)


@pytest.mark.parametrize("name", ROWS)
def test_small_rows_differ_in_what_they_fit_alone(name):
    assert ROWS[name]._replace(build=None) == DETECTORS[name]._replace(build=None)
    assert (ROWS[name].build is DETECTORS[name].build) == (name not in SMALL)
    assert set(SMALL) == set(SIZES) == set(FITS)


@pytest.mark.parametrize("name", [param(name) for name in SMALL])
def test_full_sized_rows_on_images_of_a_few_pixels(name):
    net = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval())
    detector = DETECTORS[name].build(net, Fit(images(12), torch.arange(12) % 3))
    score = detector(images(5, seed=1))
    assert detector.name == name and score.isfinite().all() and score.unique().numel() == 5
    assert type(detector) is type(ROWS[name].build(net, Fit(images(12), torch.arange(12) % 3)))


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auto-encoder", "glow", "glow-png"])
def test_detectors_of_images_alone_take_no_network(name):
    assert split_name(name, Job()) == (name, ())
    assert split_name(name, Job(id="npz:x.npz")) == (name, ())  # which others want --model for
    with pytest.raises(ValueError, match=f"`--detector` {name} must have no network, got 'ce'. Drop it and the @"):
        split_name(f"{name}@ce", Job())
    with pytest.raises(ValueError, match="`--model` must name a network for 'ccu'"):
        split_name("ccu", Job(id="npz:x.npz"))


def test_the_list_has_every_row(capsys):
    assert main(["list", "detectors", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(DETECTORS)
    assert listed["sal-agg+mls"]["source"].endswith("eq. (6)")
    wanted = "confident jem-px jem-py jem-gradient ccu auto-encoder glow glow-png mood sal-agg sal-agg+mls"
    assert set(wanted.split()) <= set(listed)


# --- building -----------------------------------------------------------------------------------------------------


def test_mood_refuses_a_network_without_exits_in_one_line():
    with pytest.raises(ValueError) as error:
        build_detector("mood", [Classifier(SmallResNet(1, 3, width=2).eval())], Fit(images(4), torch.zeros(4)), CPU)
    assert str(error.value) == (
        "detector 'mood': `net` must have a network with a method `exits`, got SmallResNet. "
        "Take `models.exits.ExitNet`."
    )


def test_a_class_behind_those_of_the_labels_may_be_that_of_outliers():
    whole = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval())
    known = {"--id": torch.tensor([0, 1, 1]), "--fit": None}
    check_outlier_class("outlier-class", Network(whole, None, whole), images(1), known)
    known["--fit"] = torch.tensor([0, 2])
    with pytest.raises(ValueError, match=r"got 3 logits for labels 0\.\.2 of --fit"):
        check_outlier_class("outlier-class", Network(whole, None, whole), images(1), known)
    check_outlier_class("msp", Network(whole, None, whole), images(1), known)
    check_outlier_class("outlier-class", Network(id_classes(whole, 2), None, whole), images(1), known)  # by its record


@pytest.mark.parametrize("act", [nn.ReLU(), nn.GELU(), nn.Hardtanh()])
@pytest.mark.parametrize("name", ["gaia-z", "si-z"])
def test_counts_of_zero_gradients_are_taken_where_there_can_be_some(name, act):
    net = Classifier(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), act, nn.Linear(16, 3)).eval())
    check_open(name, build_detector(name, [net], None, CPU), images(1))
    net.network[2] = nn.LeakyReLU()
    with pytest.raises(ValueError, match=f"detector '{name}': the network must have ReLUs behind its norm layers"):
        check_open(name, build_detector(name, [net], None, CPU), images(1))
    check_open("gaia-a", build_detector("gaia-a", [net], None, CPU), images(1))


class Clipped(nn.Module):
    def forward(self, x):
        return torch.where(x > 0, x, 0)


def test_what_a_network_does_in_other_words_is_no_reason_to_refuse_it():
    net = Classifier(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), Clipped(), nn.Linear(16, 3)).eval())
    net.network[1].running_mean.fill_(0.5)  # else all of it is open
    check_open("gaia-z", build_detector("gaia-z", [net], None, CPU), images(1))
    check_open("gaia-z", build_detector("gaia-z", [net], None, CPU), images(1, size=5))  # which it does not take
    known = {"--id": torch.tensor([0, 2])}
    check_outlier_class("outlier-class", Network(net, None, net), images(1, size=5), known)


LAYERS = {
    "rankfeat": "RankFeat(net, layers=[...])",
    "mahalanobis-layers": "fit_mahalanobis_layers(net, x, y, layers=[...])",
    "mahalanobis-weighted": "fit_mahalanobis_layers(net, x, y, layers=[...])",
    "confident": "Confident(net, layer=...)",
    "sal-agg": 'fit_sal_agg(net, id_val, ood_val, options={"layer": ...})',
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_network_without_stages_is_told_who_wants_them_and_how_to_do_without(name):
    net = Classifier(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval())
    with pytest.raises(ValueError) as error:
        build_detector(name, [net], Fit(images(12), torch.arange(12) % 3, images(6).sqrt()), CPU)
    assert str(error.value) == (
        f"detector {name!r}: the network has no modules named like `layer1`. Take another detector, or name some of "
        f"`named_modules()` in Python: {LAYERS[name]}."
    )


@pytest.mark.parametrize("act", [nn.LeakyReLU(), nn.Identity()])
def test_a_network_that_cannot_be_guided_is_told_how_to_do_without(act):
    net = Classifier(nn.Sequential(nn.Conv2d(1, 4, 3), act, nn.Flatten(), nn.Linear(16, 3)).eval())
    remedy = r'Take another detector, or in Python method="integrated-gradients"\.'
    with pytest.raises(ValueError, match=f"^detector 'sal-agg\\+mls': guided backpropagation must have .*{remedy}$"):
        build_detector("sal-agg+mls", [net], Fit(images(12), torch.arange(12) % 3, images(6).sqrt()), CPU)


def test_a_bare_detector_is_built_in_the_type_of_the_job(monkeypatch):
    monkeypatch.setitem(DETECTORS, "auto-encoder", ROWS["auto-encoder"])
    found = build_detector("auto-encoder", [], Fit(images(8).double(), torch.zeros(8)), CPU, torch.float64)
    assert {p.dtype for p in found.parameters()} == {torch.float64}
    assert found(images(3).double()).dtype == torch.float64


def test_a_tuned_detector_gets_outliers_and_its_sign_from_them():
    fit = fit_images(Job(), [DETECTORS["mahalanobis-weighted"]])
    assert fit.ood_val.shape == (VALIDATION, 1, 32, 32) and 0 <= fit.ood_val.min() and fit.ood_val.max() <= 1
    detector = build_detector("sal-agg", [Classifier(SmallResNet(1, 6, width=2).eval())], fit, CPU)
    draft = detector.aggregated(fit.x).mean() - detector.aggregated(fit.ood_val).mean()
    assert detector.sign == math.copysign(1, draft)


TUNERS = {
    "odin-tuned": "fit_odin", "mahalanobis-weighted": "fit_layer_weights", "sal-agg": "fit_sal_agg",
    "sal-agg+mls": "fit_sal_agg_mls", "si-z+max-logit": "fit_weighted_sum",
}  # fmt: skip


@pytest.mark.parametrize("name", TUNERS)
def test_what_is_tuned_is_tuned_on_validation_images_of_both_sides(monkeypatch, name):
    seen = []
    torch.manual_seed(0)  # of four channels none may be dead
    monkeypatch.setattr(f"oodattack.detectors.table.{TUNERS[name]}", lambda *args: seen.append(args))
    net = Classifier(SmallResNet(1, 3, width=2).eval())
    given = Fit(images(12), torch.arange(12) % 3, images(6, seed=1), images(8, seed=2))
    DETECTORS[name].build(net, given)
    DETECTORS[name].build(net, given._replace(id_val=None))
    held_out, own = (args[1:2] for args in seen)
    assert held_out[0] is given.id_val and own[0] is given.x
    if DETECTORS[name].tunes:
        assert all(args[2] is given.ood_val for args in seen)


def test_outside_digits_the_validation_images_must_be_named(tmp_path):
    np.savez(tmp_path / "id.npz", images=np.random.default_rng(0).random((8, 1, 8, 8)), labels=np.arange(8) % 2)
    np.savez(tmp_path / "ood.npz", images=np.random.default_rng(1).random((5, 1, 8, 8)))
    named = {"id": f"npz:{tmp_path}/id.npz", "fit": f"npz:{tmp_path}/id.npz"}
    with pytest.raises(
        ValueError, match="`--ood-validation` must name OOD images for 'mahalanobis-weighted', got none"
    ):
        fit_images(Job(**named), [DETECTORS["mahalanobis-weighted"]])
    assert fit_images(Job(**named), [DETECTORS["mahalanobis"]]).ood_val is None
    both = {"ood_validation": f"npz:{tmp_path}/ood.npz", "id_validation": f"npz:{tmp_path}/id.npz"}
    fit = fit_images(Job(**named, **both), [DETECTORS["mahalanobis-weighted"]])
    assert (fit.ood_val.shape, fit.id_val.shape) == ((5, 1, 8, 8), (8, 1, 8, 8))
    np.savez(tmp_path / "small.npz", images=np.zeros((4, 1, 6, 6)))
    with pytest.raises(ValueError, match=r"`--id-validation` must have the shape .* of --fit, got"):
        fit_images(
            Job(**named, **both | {"id_validation": f"npz:{tmp_path}/small.npz"}), [DETECTORS["mahalanobis-weighted"]]
        )


def test_no_more_is_asked_for_than_a_detector_needs(tmp_path):
    draw = np.random.default_rng(0)
    for name, rows in (("bare", 8), ("known", 6), ("strange", 5)):
        np.savez(tmp_path / f"{name}.npz", images=draw.random((rows, 1, 8, 8)))

    def fit(*rows, **named):
        words = {option: f"npz:{tmp_path}/{file}.npz" for option, file in named.items()}
        return fit_images(Job(id="npz:x.npz", **words), [DETECTORS[name] for name in rows])

    given = fit("knn", "vim", "react", "dice", "gram", fit="bare")  # without labels
    assert given.x.shape == (8, 1, 8, 8) and given.y is None
    with pytest.raises(ValueError, match=r"`--fit` must have labels for 'line', got none in 'npz:.*bare\.npz'. Store"):
        fit("knn", "line", fit="bare")
    tuned = {"id_validation": "known", "ood_validation": "strange"}
    given = fit("odin-tuned", "sal-agg", **tuned)  # without training images
    assert [len(given.x), given.y, len(given.known()), len(given.strange())] == [0, None, 6, 5]
    assert list(given.sets()) == ["the OOD validation images", "the ID validation images"]
    assert list(fit_moved(given, CPU, torch.float64, torch.empty_like).sets()) == list(given.sets())
    with pytest.raises(ValueError, match="`--fit` must name labelled ID training images for 'mahalanobis', got none"):
        fit("odin-tuned", "mahalanobis", **tuned)
    with pytest.raises(ValueError, match=r"must name ID training images for 'knn', got none\. Add npz:PATH\.$"):
        fit("knn", **tuned)
    more = "got none. Add npz:PATH, or images to tune on with --id-validation.$"
    with pytest.raises(ValueError, match=f"must name ID training images for 'odin-tuned', 'si-z\\+max-logit', {more}"):
        fit("odin-tuned", "si-z+max-logit", ood_validation="strange")


def test_rows_say_who_needs_labels_and_whom_validation_images_are_enough():
    for name, row in DETECTORS.items():
        source = row.build.__code__.co_names  # of `lambda net, fit: ...`
        assert row.labels == ("y" in source)
        assert row.known == ("known" in source and "x" not in source)
        assert row.fits == bool({"x", "known"} & set(source)), name


@pytest.mark.parametrize("given", [Fit(images(4).double(), torch.arange(4)), Fit(*[images(4).double()] * 4)])
def test_what_is_fitted_on_moves_as_one_and_is_listed_by_name(given):
    moved = fit_moved(given, CPU, torch.float32, torch.empty_like)
    assert {x.dtype for x in moved.sets().values()} == {torch.float32} and moved.y.dtype == given.y.dtype
    assert list(moved.sets()) == [
        f"the {kind} images" for kind in ("training", "OOD validation", "ID validation")[: len(moved.sets())]
    ]
    assert len(moved.sets()) == sum(x is not None for x in given) - 1


def test_a_tuned_detector_wants_outliers():
    with pytest.raises(ValueError, match="`ood_val` must be OOD images for a tuned detector, got none"):
        Fit(images(2), torch.arange(2)).strange()


# --- the command --------------------------------------------------------------------------------------------------

QUICK = quick_threat.QUICK.replace('"apgd"', '"pgd"\nstep_size = "1/4"').replace("queries = 3", "queries = 4")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "id.npz", images=draw.random((12, 1, 32, 32)) / 2, labels=np.arange(12) % 3)
    np.savez(tmp_path / "ood.npz", images=draw.random((5, 1, 32, 32)))
    np.savez(tmp_path / "val.npz", images=draw.random((6, 1, 32, 32)))
    for file, network in (("small", SmallResNet(1, 3)), ("exits", ExitNet(1, 3))):
        save_file(network.state_dict(), tmp_path / f"{file}.safetensors")
    (tmp_path / "quick.toml").write_text(QUICK)
    monkeypatch.chdir(tmp_path)
    for name in SMALL:
        monkeypatch.setitem(DETECTORS, name, ROWS[name])
    return tmp_path


def run(model, *detectors, val=True, out="out"):
    words = ["run", "--threat", "quick.toml", "--id", "npz:id.npz", "--ood", "npz:ood.npz", "--fit", "npz:id.npz"]
    words += ["--model", model, "--weights", f"{model}.safetensors", "--out", out, "--json"]
    words += ["--ood-validation", "npz:val.npz"] if val else []
    return main([*words, *(word for name in detectors for word in ("--detector", name))])


NEW = ["confident", "jem-px", "jem-py", "jem-gradient", "ccu", "auto-encoder", "sal-agg", "sal-agg+mls"]


def test_rows_run_from_the_command_line(workplace, capsys):
    assert run("small", *NEW) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    bare = [name for name in NEW if DETECTORS[name].bare]
    assert {(r["detector"], r["network"]) for r in results} == {(name, "" if name in bare else "model") for name in NEW}
    saved = {path.name for path in (workplace / "out" / "detectors").glob("*.json")}
    assert saved == {f"{name}.json" if name in bare else f"{name}@model.json" for name in NEW}


def test_what_is_being_fitted_is_told(workplace):
    told, files = [], {"id": "npz:id.npz", "ood": ("npz:ood.npz",), "fit": "npz:id.npz"}
    model = {"model": "small", "weights": (workplace / "small.safetensors",)}
    wanted = Job(
        detectors=("knn", "msp", "auto-encoder"), threats=("quick.toml",), out=workplace / "out", **files, **model
    )
    run_job(wanted, progress=lambda *words: told.append(words))
    assert told[:3] == [
        ("fitting knn@model (1 of 2)", 0, 2), ("fitting auto-encoder (2 of 2)", 1, 2), ("fitting is done", 2, 2)
    ]  # fmt: skip
    assert told[3:] and not any(label.startswith("fitting") for label, _, _ in told[3:])


@pytest.mark.parametrize("name", [param("glow"), param("glow-png")])
def test_flows_run_from_the_command_line(workplace, capsys, name):
    assert run("small", name) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["detector"] == name and result["attacked"]["auroc"] <= result["clean"]["auroc"]


def test_mood_runs_on_a_network_with_exits_and_no_other(workplace, capsys):
    assert NETWORKS["mood"](1).exits  # the contract tests give it one, too
    assert run("exits", "mood") == 0
    capsys.readouterr()
    assert run("small", "mood", out="other") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "must have a network with a method `exits`, got SmallResNet" in err


def test_tuned_rows_want_validation_images_from_the_command_line(workplace, capsys):
    assert run("small", "sal-agg", val=False) == 2
    assert "`--ood-validation` must name OOD images for 'sal-agg', got none" in capsys.readouterr().err


def test_a_missing_package_is_named_from_the_command_line(workplace, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "normflows", None)
    assert run("small", "glow") == 2
    assert "`Glow` must have the package normflows. Run `pip install 'oodattack[flows]'`" in capsys.readouterr().err
