"""Trained networks that are kept: used, keyed by all that decides them, never believed when damaged."""

import importlib
import sys
from dataclasses import replace

import pytest
import torch

from oodattack.classifier import Classifier
from oodattack.train import RECIPES, HeldOut, Setting, TrainingSet, cache, fit, recipes, trained
from oodattack.train.checkpoint import NAME

SETTING = Setting(seed=0)


@pytest.fixture
def images():
    """Twelve ID images that `small` takes, and as many outliers."""
    draw = torch.Generator().manual_seed(0)
    return TrainingSet(torch.rand(12, 1, 32, 32, generator=draw), torch.arange(12) % 3, torch.rand(12, 1, 32, 32))


@pytest.fixture
def held(images):
    return HeldOut(images.x.flip(3), images.y)


@pytest.fixture
def calls(monkeypatch, brief):
    """Objectives in the order in which they are trained; recipes are short."""
    for name in ("ce", "oe", "dos"):
        short = replace(RECIPES[name], epochs=1, batch_size=6)
        monkeypatch.setitem(RECIPES, name, short)
    assert recipes.RECIPES is RECIPES
    seen = []
    monkeypatch.setattr(
        cache, "fit", lambda net, recipe, *a, **kw: seen.append(recipe.objective) or fit(net, recipe, *a, **kw)
    )
    return seen


def files(folder):
    return sorted(path.name for path in (folder / "networks").iterdir())


def test_it_is_used(images, held, calls, same, tmp_path):
    first = trained("ce", images, held, setting=SETTING, cache=tmp_path)
    again = trained("ce", images, held, setting=SETTING, cache=tmp_path)
    assert calls == ["ce"]
    assert same(first.network, again.network)
    assert first.accuracy == again.accuracy
    for network in (first.network, again.network):
        assert not network.training and not any(p.requires_grad for p in network.parameters())
    names = files(tmp_path)
    assert [name.partition("-")[0] for name in names] == ["ce", "ce"]
    assert {name.rpartition(".")[2] for name in names} == {"json", "safetensors"}


OTHERS = {
    "seed": {"setting": replace(SETTING, seed=1)},
    "normalisation": {"setting": replace(SETTING, mean=(0.5,), std=(0.2,))},
    "precision": {"setting": replace(SETTING, precision="bfloat16")},
    "model": {"setting": replace(SETTING, model="grey-convnet")},
    "one pixel": {"pixel": True},
    "held out": {"held": True},
    "recipe": {"lr": 0.05},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_it_is_keyed_by_everything(change, images, held, calls, tmp_path):
    if change.get("setting", SETTING).model == "grey-convnet":
        images = TrainingSet(*(part[..., :28, :28] if part.ndim == 4 else part for part in images))
        held = HeldOut(held.x[..., :28, :28], held.y)
    trained("ce", images, held, setting=SETTING, cache=tmp_path)
    if "pixel" in change:
        images.x[0, 0, 0, 0] = 0.5
    if "held" in change:
        held.x[0, 0, 0, 0] = 0.5
    recipe = replace(RECIPES["ce"], lr=change.get("lr", RECIPES["ce"].lr))
    trained(recipe, images, held, setting=change.get("setting", SETTING), cache=tmp_path)
    assert calls == ["ce", "ce"]
    assert len(files(tmp_path)) == 4


def test_user_code_that_was_edited_is_trained_anew(images, held, calls, monkeypatch, tmp_path):
    code = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(1024, 3)

    def forward(self, x):
        return self.head(torch.ACT(x.flatten(1)))
"""
    monkeypatch.syspath_prepend(str(tmp_path))
    setting, found = replace(SETTING, model="edited_net:Net"), []
    for activation in ("relu", "tanh", "relu"):
        sys.modules.pop("edited_net", None)
        importlib.invalidate_caches()
        (tmp_path / "edited_net.py").write_text(code.replace("ACT", activation))
        found.append(trained("ce", images, held, setting=setting, cache=tmp_path).network)
        sys.modules.pop("edited_net", None)
    assert calls == ["ce", "ce"]  # the first one is found again
    assert len(files(tmp_path)) == 4


def test_a_checkpoint_of_a_network_that_another_run_finished_is_cleared_away(images, held, calls, tmp_path):
    folder = tmp_path / "checkpoint"

    def progress(_name, done, _total):
        if done == 2:
            raise KeyboardInterrupt

    options = {"setting": replace(SETTING, every=0), "cache": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        trained("ce", images, held, **options, checkpoint=folder, progress=progress)
    assert (folder / "network" / NAME).exists()
    trained("ce", images, held, **options)
    trained("ce", images, held, **options, checkpoint=folder)
    assert calls == ["ce", "ce"]
    assert not folder.exists()


@pytest.mark.parametrize("ending", ["safetensors", "json"])
@pytest.mark.parametrize("damage", ["half", "empty", "gone"])
def test_a_broken_file_is_trained_anew(ending, damage, images, held, calls, same, tmp_path):
    first = trained("ce", images, held, setting=SETTING, cache=tmp_path)
    (file,) = (tmp_path / "networks").glob(f"*.{ending}")
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
    again = trained("ce", images, held, setting=SETTING, cache=tmp_path)
    assert calls == ["ce", "ce"]
    assert same(first.network, again.network)
    assert file.read_bytes() == whole  # and it is whole again


def test_weights_that_somebody_changed_are_not_believed(images, held, calls, tmp_path):
    from safetensors.torch import load_file, save_file

    trained("ce", images, held, setting=SETTING, cache=tmp_path)
    (file,) = (tmp_path / "networks").glob("*.safetensors")
    save_file({key: value + 1 for key, value in load_file(file).items()}, file)
    trained("ce", images, held, setting=SETTING, cache=tmp_path)
    assert calls == ["ce", "ce"]


def test_an_unwritable_cache_is_named(images, held, calls, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cache folder must be writable.*OODATTACK_CACHE"):
        trained("ce", images, held, setting=SETTING, cache=tmp_path / "file")


def test_a_fine_tuned_network_starts_from_the_one_below_it(images, held, calls, same, tmp_path):
    start = trained("ce", images, held, setting=SETTING, cache=tmp_path)
    tuned = trained("oe", images, held, setting=SETTING, cache=tmp_path)
    assert calls == ["ce", "oe"]
    by_hand = cache.build(RECIPES["oe"], images, SETTING)
    by_hand.load_state_dict(start.network.state_dict())
    fit(by_hand, RECIPES["oe"], images, seed=0)
    assert same(by_hand, tuned.network)
    trained("oe", images, held, setting=replace(SETTING, seed=1), cache=tmp_path)
    assert calls == ["ce", "oe", "ce", "oe"]  # each seed has its own


def test_another_recipe_of_the_start_is_another_network(images, held, calls, monkeypatch, tmp_path):
    trained("oe", images, held, setting=SETTING, cache=tmp_path)
    monkeypatch.setitem(RECIPES, "ce", replace(RECIPES["ce"], lr=0.05))
    trained("oe", images, held, setting=SETTING, cache=tmp_path)
    assert calls == ["ce", "oe", "ce", "oe"]


def test_weights_of_ones_own_take_the_place_of_the_start(images, held, calls, same, tmp_path):
    weights = cache.build(RECIPES["oe"], images, replace(SETTING, seed=7)).state_dict()
    tuned = trained("oe", images, held, setting=SETTING, cache=tmp_path, weights=weights)
    assert calls == ["oe"]
    by_hand = cache.build(RECIPES["oe"], images, SETTING)
    by_hand.load_state_dict(weights)
    fit(by_hand, RECIPES["oe"], images, seed=0)
    assert same(by_hand, tuned.network)
    with pytest.raises(ValueError, match=r"weights must fit the network, got .* missing"):
        trained("oe", images, held, setting=SETTING, cache=tmp_path, weights={"x": torch.zeros(1)})


def test_the_record_has_what_it_takes_to_repeat_and_to_judge(images, held, calls, tmp_path):
    done = trained("dos", images, held, setting=replace(SETTING, mean=(0.5,), std=(0.2,)), cache=tmp_path)
    record = done.record
    assert (record["objective"], record["classes"], record["outputs"], record["channels"]) == ("dos", 3, 4, 1)
    assert (record["model"], record["seed"], record["precision"]) == ("small", 0, "full")
    assert [*record["mean"], *record["std"]] == [0.5, 0.2]
    assert record["recipe"]["lr"] == RECIPES["dos"].lr
    assert {key: len(value) for key, value in record["data"].items()} == {"x": 64, "y": 64, "aux": 64}
    assert record["accuracy"] == done.accuracy == record["curve"][-1]["accuracy"]
    assert record["resumed"] == []
    # its accuracy by hand, of the ID classes alone
    with torch.no_grad():
        right = done.network(held.x)[:, :3].argmax(1) == held.y
    assert done.accuracy == pytest.approx(right.double().mean().item())


def test_a_killed_run_goes_on_and_clears_away(images, held, calls, same, tmp_path):
    folder, deep = tmp_path / "checkpoint", []

    class Stop(Exception):
        pass

    def progress(name, done, total):
        if (name, done) == ("oe", 2) and not deep:
            deep.extend(path.parent.name for path in folder.rglob(NAME))
            raise Stop

    setting = replace(SETTING, every=0)
    expected = trained("oe", images, held, setting=setting, cache=tmp_path / "other")
    with pytest.raises(Stop):
        trained("oe", images, held, setting=setting, cache=tmp_path, checkpoint=folder, progress=progress)
    assert deep == ["network"]  # that of ce is done with
    (folder / "mine.txt").write_text("")
    done = trained("oe", images, held, setting=setting, cache=tmp_path, checkpoint=folder, progress=progress)
    assert calls[2:] == ["ce", "oe", "oe"]
    assert done.record["resumed"] == [1]
    assert same(expected.network, done.network)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_a_model_with_its_own_normalisation_takes_no_other(images, held, monkeypatch, tmp_path):
    network = Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 3)), mean=(0.5,), std=(0.2,))
    monkeypatch.setattr(cache.models, "build", lambda *_, **__: network)
    assert cache.build(RECIPES["ce"], images, SETTING) is network
    for given in ({"mean": (0.5,)}, {"std": (0.2,)}):
        with pytest.raises(ValueError, match="`--mean` and `--std` must be left out for a model that is a Classifier"):
            trained("ce", images, held, setting=replace(SETTING, **given), cache=tmp_path)


def test_unknown_recipe_is_named(images, held, tmp_path):
    with pytest.raises(ValueError, match=r"`recipe` must be one of ce, gq.*got 'gregg'"):
        trained("gregg", images, held, setting=SETTING, cache=tmp_path)
