"""A run that was stopped goes on and ends with the same weights, bit for bit, for every recipe."""

import json
from dataclasses import replace

import pytest
import torch

from oodattack.classifier import Classifier
from oodattack.train import RECIPES, fit
from oodattack.train.checkpoint import NAME, clear

NEVER = 1e9  # seconds


class Stop(Exception):
    """Raised in the middle of a run."""


def stopped(network, recipe, data, *, at, **options) -> None:
    """Run until `at` steps are done, in this process or one before."""

    def progress(_name, done, _total):
        if done == at:
            raise Stop

    with pytest.raises(Stop):
        fit(network, recipe, data, progress=progress, **options)


@pytest.mark.parametrize("objective", RECIPES)
def test_every_recipe_goes_on_where_it_was(objective, tiny, data, held_out, brief, same, tmp_path):
    recipe = brief(objective, epochs=3)
    options = {"seed": 3, "held_out": held_out}
    straight = tiny(recipe)
    expected = fit(straight, recipe, data, **options)
    assert expected.resumed == []
    folder = tmp_path / "checkpoint"
    for at in (2, 5, 7, 9):  # of 9 steps, 3 an epoch; the last is done but not yet saved
        network = tiny(recipe)
        stopped(network, recipe, data, at=at, checkpoint=folder, every=0, **options)
        assert not same(network, straight) or at == 9
    network = tiny(recipe)
    torch.manual_seed(123)  # whatever the process that goes on has drawn before
    found = fit(network, recipe, data, checkpoint=folder, every=0, **options)
    assert same(network, straight)
    assert found.curve == expected.curve
    assert found.resumed == [1, 4, 6, 8]


SCHEDULES = {
    "one-cycle": {},
    "cosine": {"schedule": "cosine", "warmup": 2},
    "cosine-epochs": {"schedule": "cosine-epochs"},
    "steps": {"schedule": "steps", "milestones": (0.5,)},
    "adam": {"optimiser": "adam", "schedule": "steps"},
    "adam in one cycle": {"optimiser": "adam"},
    "noise and mirrors": {"noise": 0.05, "flip": True},
}


@pytest.mark.parametrize("changes", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("at", [2, 4])
def test_every_schedule_and_optimiser_goes_on(changes, at, tiny, data, brief, same, tmp_path):
    recipe = brief("ce", **changes)
    straight, network = tiny(), tiny()
    expected = fit(straight, recipe, data, seed=0)
    stopped(tiny(), recipe, data, at=at, seed=0, checkpoint=tmp_path, every=0)
    assert fit(network, recipe, data, seed=0, checkpoint=tmp_path).curve == expected.curve
    assert same(network, straight)


@pytest.mark.parametrize("sampler", ["random", "greedy", "energy", "greg+", "dos"])
def test_every_sampler_goes_on(sampler, tiny, data, brief, same, tmp_path):
    recipe = brief("dos" if sampler == "dos" else "energy", sampler=sampler, outliers=2, augment_aux=True)
    straight, network = tiny(recipe), tiny(recipe)
    fit(straight, recipe, data, seed=0)
    stopped(tiny(recipe), recipe, data, at=5, seed=0, checkpoint=tmp_path, every=0)
    fit(network, recipe, data, seed=0, checkpoint=tmp_path)
    assert same(network, straight)


def test_with_normalisation_and_mixed_precision(tiny, data, brief, same, tmp_path):
    def make():
        return Classifier(tiny(), mean=[0.4], std=[0.2])

    straight, network, recipe = make(), make(), brief("greg")
    options = {"seed": 0, "precision": "bfloat16"}
    fit(straight, recipe, data, **options)
    stopped(make(), recipe, data, at=5, checkpoint=tmp_path, every=0, **options)
    fit(network, recipe, data, checkpoint=tmp_path, **options)
    assert same(network, straight)


def test_without_time_for_more_there_is_one_checkpoint_an_epoch(tiny, data, brief, same, tmp_path):
    recipe, straight, network = brief("ce"), tiny(), tiny()
    fit(straight, recipe, data, seed=0)
    stopped(tiny(), recipe, data, at=5, seed=0, checkpoint=tmp_path, every=NEVER)
    assert fit(network, recipe, data, seed=0, checkpoint=tmp_path, every=NEVER).resumed == [3]
    assert same(network, straight)


def test_stopped_before_the_first_checkpoint_it_begins_anew(tiny, data, brief, same, tmp_path):
    recipe, straight, network = brief("ce"), tiny(), tiny()
    fit(straight, recipe, data, seed=0)
    stopped(tiny(), recipe, data, at=1, seed=0, checkpoint=tmp_path / "new", every=0)
    assert fit(network, recipe, data, seed=0, checkpoint=tmp_path / "new", every=0).resumed == []
    assert same(network, straight)


def test_a_finished_run_is_not_trained_further(tiny, data, brief, same, tmp_path):
    recipe, first, again = brief("ce"), tiny(), tiny()
    expected = fit(first, recipe, data, seed=0, checkpoint=tmp_path)
    seen = []
    found = fit(again, recipe, data, seed=0, checkpoint=tmp_path, progress=lambda *words: seen.append(words))
    assert seen == [] and found.curve == expected.curve
    assert same(first, again) and not again.training


def test_checkpoints_change_nothing(tiny, data, brief, same, tmp_path):
    recipe, bare, kept = brief("greg+"), tiny(), tiny()
    fit(bare, recipe, data, seed=0)
    fit(kept, recipe, data, seed=0, checkpoint=tmp_path, every=0)
    assert same(bare, kept)


def test_files_of_others_in_the_folder_stay(tiny, data, brief, tmp_path):
    (tmp_path / "thesis.txt").write_text("important")
    (tmp_path / "weights-best.safetensors").write_text("important")
    (tmp_path / "folder").mkdir()
    fit(tiny(), brief("ce"), data, seed=0, checkpoint=tmp_path, every=0)
    assert {path.name for path in tmp_path.iterdir()} == {
        "thesis.txt", "weights-best.safetensors", "folder", "checkpoint.json", "weights-6.safetensors",
        "state-6.safetensors",
    }  # fmt: skip
    clear(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.txt", "weights-best.safetensors", "folder"}


CHANGES = {  # of a state: the loop would go on with some, stumble over others, and hold one for finished
    "epoch": 99,
    "step": -1,
    "order": 3,
    "sums": {"dict": []},
    "schedule": {"dict": []},
    "curve": None,
}


@pytest.mark.parametrize(("name", "value"), CHANGES.items(), ids=CHANGES)
def test_a_state_that_somebody_changed_is_refused(name, value, tiny, data, brief, tmp_path):
    stopped(tiny(), brief("ce"), data, at=5, seed=0, checkpoint=tmp_path, every=0)
    path = tmp_path / NAME
    record = json.loads(path.read_text())
    (field,) = (pair for pair in record["state"]["dict"] if pair[0] == name)
    field[1] = value
    path.write_text(json.dumps(record, indent=1))
    with pytest.raises(ValueError, match=r"checkpoint\.json: must be as it was written, .* Delete the folder to begin"):
        fit(tiny(), brief("ce"), data, seed=0, checkpoint=tmp_path)


OTHERS = {
    "seed": ({}, {"seed": 1}, {}, "`seed` 1, got 0"),
    "recipe": ({"lr": 0.05}, {}, {}, r"`recipe\.lr` 0\.05, got 0\.1"),
    "milestones": ({"milestones": (0.5,)}, {}, {}, r"`recipe\.milestones` \[0\.5\], got \[\]"),
    "precision": ({}, {"precision": "bfloat16"}, {}, "`precision` 'bfloat16', got 'full'"),
    "images": ({}, {}, {"x": 0.5}, r"`data\.x` '[0-9a-f]{64}', got '[0-9a-f]{64}'"),
    "labels": ({}, {}, {"y": 1}, r"`data\.y` '[0-9a-f]{64}', got"),
    "outliers": ({}, {}, {"aux": 0.5}, r"`data\.aux` '[0-9a-f]{64}', got"),
}


@pytest.mark.parametrize(("fields", "options", "parts", "message"), OTHERS.values(), ids=OTHERS)
def test_a_checkpoint_of_something_else_is_refused(fields, options, parts, message, tiny, data, brief, tmp_path):
    stopped(tiny(), brief("ce"), data, at=2, seed=0, checkpoint=tmp_path, every=0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, value in parts.items():  # one pixel or one label
        changed = getattr(data, name).clone()
        changed.view(-1)[-1] = value
        data = data._replace(**{name: changed})
    with pytest.raises(ValueError, match=rf"checkpoint must have {message}.* Delete the folder to begin anew\.$"):
        fit(tiny(), replace(brief("ce"), **fields), data, checkpoint=tmp_path, **({"seed": 0} | options))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_checkpoint_of_another_normalisation_is_refused(tiny, data, brief, tmp_path):
    first = Classifier(tiny(), mean=[0.4], std=[0.2])
    stopped(first, brief("ce"), data, at=2, seed=0, checkpoint=tmp_path, every=0)
    with pytest.raises(ValueError, match=r"checkpoint must have `normalisation` \[\[0\.0\], \[10\.0\]\], got \[\[0\.4"):
        fit(Classifier(tiny(), mean=[0.0], std=[10.0]), brief("ce"), data, seed=0, checkpoint=tmp_path)


def test_a_checkpoint_of_another_activation_is_refused(tiny, data, brief, tmp_path):
    stopped(tiny(), brief("ce"), data, at=2, seed=0, checkpoint=tmp_path, every=0)
    other = tiny()
    other.body[2] = torch.nn.Tanh()
    with pytest.raises(ValueError, match="checkpoint must have `network` '"):
        fit(other, brief("ce"), data, seed=0, checkpoint=tmp_path)


def test_a_checkpoint_from_other_weights_is_refused(tiny, data, brief, tmp_path):
    stopped(tiny(), brief("ce"), data, at=2, seed=0, checkpoint=tmp_path, every=0)
    other = tiny()
    with torch.no_grad():
        other.head.bias[0] += 1
    with pytest.raises(ValueError, match="checkpoint must have `initial_weights` '"):
        fit(other, brief("ce"), data, seed=0, checkpoint=tmp_path)
