"""The loop: it repeats itself, each term reaches the weights, and what does not fit together is said at once."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from oodattack.classifier import Classifier
from oodattack.models.exits import ExitNet
from oodattack.objectives import OBJECTIVES
from oodattack.train import RECIPES, HeldOut, Recipe, TrainingSet, fit
from oodattack.train.exits import exits_of
from oodattack.train.loop import batches, check_outputs

OWN_TERM = {name: "weight" for name in RECIPES if name != "ce"}
GRADIENT = ("energy", "greg", "greg+", "poem", "oe", "dos")


@pytest.mark.parametrize("objective", RECIPES)
def test_each_recipe_trains_and_repeats_itself(objective, tiny, data, brief, same):
    recipe, networks = brief(objective), []
    for seed in (3, 3, 4):
        network = tiny(recipe)
        torch.manual_seed(len(networks))  # the loop does not depend on what was drawn before
        state = torch.get_rng_state()
        fit(network, recipe, data, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)  # nor leave traces
        assert not network.training
        networks.append(network)
    first, again, other = networks
    assert same(first, again)
    assert not same(first, other)
    assert not same(first, tiny(recipe))
    assert all(value.isfinite().all() for value in first.state_dict().values())


@pytest.mark.parametrize(("objective", "field"), OWN_TERM.items(), ids=OWN_TERM)
def test_the_own_term_reaches_the_weights(objective, field, tiny, data, brief, flat):
    # the same recipe without its own term must end somewhere else: a term without a gradient is caught
    ends = []
    for recipe in (brief(objective), brief(objective, **{field: 0.0})):
        network = tiny(recipe)
        fit(network, recipe, data, seed=3)
        ends.append(flat(network))
    assert (ends[0] - ends[1]).abs().max() > 1e-5


@pytest.mark.parametrize("precision", ["full", "bfloat16"])
@pytest.mark.parametrize("around", [lambda net: net, Classifier, lambda net: Classifier(Classifier(net))])
def test_cross_entropy_trains_every_exit(around, precision, data, brief):
    torch.manual_seed(0)
    network = ExitNet(1, 3, width=2, growth=1)
    before = [head.weight.clone() for head in network.heads]
    large = data._replace(x=nn.functional.interpolate(data.x, size=28), aux=None)
    curve = fit(around(network), brief("ce"), large, seed=3, precision=precision).curve
    moved = [not torch.equal(old, head.weight) for old, head in zip(before, network.heads, strict=True)]
    assert moved == [True] * 5 and curve[0]["loss"] > 3  # about log 3 an exit


def test_exits_see_normalised_images():
    network, x = ExitNet(1, 3, width=2, growth=1).eval(), torch.rand(2, 1, 28, 28)
    found = exits_of(Classifier(network, mean=(0.5,), std=(0.25,)))(x)
    assert all(torch.equal(a, b) for a, b in zip(found, network.exits((x - 0.5) / 0.25), strict=True))


@pytest.mark.parametrize("objective", [name for name in RECIPES if name != "ce"])
def test_other_objectives_are_refused_for_a_network_with_exits(objective, data, brief):
    large = data._replace(
        x=nn.functional.interpolate(data.x, size=28), aux=nn.functional.interpolate(data.aux, size=28)
    )
    with pytest.raises(ValueError, match=rf"`model` must be one without exits for {re.escape(objective)}, got one"):
        fit(ExitNet(1, 4, width=2, growth=1), brief(objective), large, seed=3)


@pytest.mark.parametrize("objective", GRADIENT)
def test_the_gradient_term_reaches_the_weights(objective, tiny, data, brief, flat):
    ends = []
    # margins between which all energies of a young network lie, so that rows of both sets count
    margins = {"margin_id": -1.0, "margin_aux": -0.9}
    for penalty in (0.0, 1.0):
        recipe = brief(objective, penalty=penalty, **margins)
        network = tiny(recipe)
        fitted = fit(network, recipe, data, seed=3)
        assert ("gradient" in fitted.curve[0]) == (penalty > 0)
        ends.append(flat(network))
    assert (ends[0] - ends[1]).abs().max() > 1e-5


@pytest.mark.parametrize("objective", [name for name in RECIPES if OBJECTIVES[name].needs_aux])
def test_outliers_reach_the_weights(objective, tiny, data, brief, flat):
    ends, recipe = [], brief(objective)
    for aux in (data.aux, data.aux.flip(3)):
        network = tiny(recipe)
        fit(network, recipe, data._replace(aux=aux), seed=3)
        ends.append(flat(network))
    assert (ends[0] - ends[1]).abs().max() > 1e-5


@pytest.mark.parametrize("objective", [name for name in RECIPES if not OBJECTIVES[name].needs_aux])
def test_without_outliers_none_are_needed(objective, tiny, data, brief):
    network, recipe = tiny(), brief(objective)
    fit(network, recipe, data._replace(aux=None), seed=0)
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_one_seed_gives_all_objectives_the_same_order_and_shifts(tiny, data, brief, same):
    # an outlier loss without weight is cross-entropy, but for the norms that see outliers, too
    networks = []
    for recipe in (brief("ce"), brief("gq", weight=0.0)):
        network = tiny()
        fit(network, recipe, data, seed=1)
        networks.append(network)
    assert same(*networks)


def test_the_curve_holds_means_over_steps(tiny, data, brief):
    """Three steps without an update: the mean of their cross-entropies, which are those of all rows."""
    network = tiny(dropout=0.0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum, module.track_running_stats = 0.0, False
            module.running_mean = module.running_var = None  # batch statistics
    recipe = brief("ce", lr=1e-12, shift=0, epochs=1, batch_size=11, weight_decay=0.0)
    (line,) = fit(network, recipe, data, seed=2).curve
    order = torch.randperm(22, generator=torch.Generator().manual_seed(2))
    losses = [nn.functional.cross_entropy(network(data.x[rows]), data.y[rows]).item() for rows in order.split(11)]
    assert line["loss"] == line["ce"] == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_terms_add_up_to_the_loss(tiny, data, brief):
    for name in RECIPES:
        recipe = brief(name)
        for line in fit(tiny(recipe), recipe, data, seed=2).curve:
            shown = {"epoch", "lr", "loss", "discriminator", "generator"}
            terms = [value for key, value in line.items() if key not in shown]
            assert len(terms) == (1 if name == "ce" else 3 if name in ("greg", "greg+") else 2), name
            assert sum(terms) == pytest.approx(line["loss"], rel=1e-5), name


def test_steps_of_an_epoch():
    assert [len(part) for part in batches(torch.arange(22), 3)] == [8, 8, 6]
    # 6401 = 100 * 64 + 1 would leave one row alone, which a batch norm may not take; 6401 = 38 * 64 + 63 * 63
    sizes = [len(part) for part in batches(torch.arange(6401), 101)]
    assert (sizes.count(64), sizes.count(63)) == (38, 63)
    for n in range(1, 60):
        for size in range(1, 12):
            parts = batches(torch.arange(n), -(-n // size))
            assert torch.cat(list(parts)).tolist() == list(range(n)) and len(parts) == -(-n // size)
            assert max(map(len, parts)) <= size


def test_progress_counts_steps(tiny, data, brief):
    seen = []
    fit(tiny(), brief("ce"), data, seed=0, progress=lambda *words: seen.append(words))
    assert seen == [("ce", step, 6) for step in range(1, 7)]


def test_images_may_stay_at_eight_bits(tiny, data, brief, same):
    eight = data._replace(x=(data.x * 255).round().byte(), aux=(data.aux * 255).round().byte())
    floats = TrainingSet(eight.x.float() / 255, data.y, eight.aux.float() / 255)
    networks = []
    for fed in (eight, floats):
        network = tiny()
        fit(network, brief("greg+"), fed, seed=0)
        networks.append(network)
    assert same(*networks)


@pytest.mark.parametrize("objective", [name for name in RECIPES if name != "confident"])  # see `test_accuracy.py`
def test_recipes_learn(objective, tiny, data, held_out, brief):
    recipe = brief(objective, epochs=30, lr=0.02 if objective == "jem" else 0.1, shift=0)
    fitted = fit(tiny(recipe, dropout=0.0), recipe, data, seed=0, held_out=held_out)
    assert fitted.curve[-1]["accuracy"] >= 0.6  # a third by chance


# --- mixed precision ---


@pytest.mark.parametrize("objective", RECIPES)
def test_mixed_precision_runs_and_is_near(objective, tiny, data, brief, flat):
    recipe, ends = brief(objective), []
    for precision in ("full", "bfloat16"):
        network = tiny(recipe)
        fit(network, recipe, data, seed=3, precision=precision)
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        ends.append(flat(network))
    difference = (ends[0] - ends[1]).norm() / ends[0].norm()
    assert 0 < difference < 0.3  # bfloat16 has 8 bits


def test_passes_in_mixed_precision_are_in_bfloat16(data, brief):
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 3)

        def forward(self, x):
            logits = self.head(x.flatten(1))
            seen.append((self.training, logits.dtype))
            return logits

    fit(Spy(), brief("ce"), data, seed=0, precision="bfloat16")
    assert {dtype for training, dtype in seen if training} == {torch.bfloat16}
    seen.clear()
    fit(Spy(), brief("ce"), data, seed=0)
    assert {dtype for _, dtype in seen} == {torch.float32}


# --- what does not fit ---


def spoilt(data, **parts) -> TrainingSet:
    return data._replace(**parts)


BAD = {
    "labels of another type": (
        lambda d: spoilt(d, y=d.y.float()),
        r"`x` and `y` must have shapes .* of torch\.float32",
    ),
    "labels missing": (lambda d: spoilt(d, y=d.y[:5]), r"got \(22, 1, 8, 8\) and \(5,\)"),
    "negative labels": (lambda d: spoilt(d, y=d.y - 1), "`y` must hold classes 0, 1, 2, ..., got -1. Renumber"),
    "far too many classes": (lambda d: spoilt(d, y=d.y + 2**40), r"0, 1, 2, \.\.\., got 1099511627778\. Renumber"),
    "one class": (lambda d: spoilt(d, y=d.y * 0), "`y` must have two classes or more, got one"),
    "no images": (lambda d: spoilt(d, x=d.x[:0], y=d.y[:0]), "`x` and `y` must have shapes"),
    "flat images": (lambda d: spoilt(d, x=d.x.flatten(1)), "`x` and `y` must have shapes"),
    "no outliers": (lambda d: spoilt(d, aux=None), "`aux` must hold auxiliary outliers for this objective, got none"),
    "empty outliers": (lambda d: spoilt(d, aux=d.aux[:0]), r"`aux` must have the shape \(1, 8, 8\) of ID images"),
    "larger outliers": (lambda d: spoilt(d, aux=torch.rand(9, 1, 9, 9)), r"of ID images, got \(1, 9, 9\)\. Resize"),
    "integers": (lambda d: spoilt(d, x=(d.x * 255).long()), r"`x` must be floating point or uint8, got torch\.int64"),
    "few outliers": (lambda d: spoilt(d, aux=d.aux[:9]), "`aux` must hold 16 images for the sampler greg.*, got 9"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_images_that_do_not_fit(spoil, message, tiny, data, brief):
    network = tiny()
    with pytest.raises(ValueError, match=message):
        fit(network, brief("greg+"), spoil(data), seed=0)
    assert torch.equal(network.head.weight, tiny().head.weight)  # nothing was done


@pytest.mark.parametrize("objective", ["dos", "openmix"])
@pytest.mark.parametrize("outputs", [3, 5])
def test_an_outlier_class_needs_its_output(objective, outputs, tiny, data, brief):
    with pytest.raises(
        ValueError, match=f"`network` must have 4 outputs, 3 classes and one for outliers, got {outputs}"
    ):
        fit(tiny(outputs), brief(objective), data, seed=0)


def test_networks_need_an_output_a_class_and_may_have_more(tiny, data, brief):
    with pytest.raises(ValueError, match=r"`network` must have 3 outputs, 3 classes, got 2\. Build it with those"):
        fit(tiny(2), brief("ce"), data, seed=0)
    fit(tiny(1000), brief("ce"), data, seed=0)  # as ImageNet's heads on fewer classes


def test_a_network_for_other_images_is_named(tiny, data, brief):
    with pytest.raises(ValueError, match=r"`network` must take images \(1, 8, 8\), got RuntimeError: Given groups"):
        fit(tiny(3, channels=3), brief("ce"), data, seed=0)
    with pytest.raises(ValueError, match="`x` must have 3 channels as `mean` has, got 1"):
        fit(Classifier(tiny(), mean=[0.5] * 3, std=[0.2] * 3), brief("ce"), data, seed=0)


class Odd(nn.Module):
    """A network that fails, or returns something else than logits, in training mode or always."""

    def __init__(self, oddity, always: bool = False):
        super().__init__()
        self.head, self.oddity, self.always = nn.Linear(64, 3), oddity, always

    def forward(self, x):
        logits = self.head(x.flatten(1))
        return self.oddity(logits) if self.always or self.training else logits


def fails(logits):
    raise AssertionError("Wrong image height! Expected 224")


ODD = {
    "fails": (
        Odd(fails, True),
        r"take images \(1, 8, 8\), got AssertionError: Wrong image height! Expected 224\. Take",
    ),
    "fails in training": (Odd(fails), r"take images \(1, 8, 8\) in training mode, got AssertionError"),
    "tuple": (Odd(lambda z: (z, z), True), r"return logits \(2, K\) of 2 images, got tuple\. Wrap"),
    "dict in training": (
        Odd(lambda z: {"z": z}),
        r"return logits \(2, K\) of 2 images in training mode, got dict\. Wrap",
    ),
    "vector": (Odd(lambda z: z[0], True), r"return logits \(2, K\) of 2 images, got \(3,\)"),
    "one row": (Odd(lambda z: z[:1]), r"in training mode, got \(1, 3\)"),
    "no parameters": (nn.Flatten(), "have parameters to train, got none with `requires_grad`. Unfreeze"),
    "frozen": (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False), "have parameters to train"),
}


@pytest.mark.parametrize("around", [lambda network: network, lambda network: Classifier(network, head="")])
@pytest.mark.parametrize(("network", "message"), ODD.values(), ids=ODD)
def test_a_network_that_cannot_be_trained_is_named(network, message, around, data, brief):
    with pytest.raises(ValueError, match=f"^`network` must.*{message}") as caught:
        fit(around(network), brief("ce"), data, seed=0)
    assert "\n" not in str(caught.value)


def test_trying_a_network_leaves_no_trace(tiny, data, brief, same):
    network, state = tiny(), torch.get_rng_state()
    check_outputs(network.eval(), brief("ce"), data, "full")
    assert same(network, tiny()) and not network.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_leaves_the_numbers_is_not_saved(tiny, data, brief, tmp_path):
    recipe = brief("ce", lr=1e30, schedule="steps")
    with pytest.raises(
        FloatingPointError, match=r"the loss must stay finite, got `loss` that is not in epoch 1\. Lower"
    ):
        fit(tiny(), recipe, data, seed=0, checkpoint=tmp_path / "c")
    assert not (tmp_path / "c").exists()


LAST = {  # learning rate, weight decay, ID images a step, whether it is measured
    "measured": (1e10, 0.0, 22, True, "energy_gradient"),
    "end of the epoch": (1e38, 1e3, 22, False, r"body\.0\.weight"),
    "within": (1e38, 1e3, 8, False, r"body\.0\.weight"),
}


@pytest.mark.parametrize(("lr", "weight_decay", "size", "measured", "name"), LAST.values(), ids=LAST)
def test_a_step_that_leaves_the_numbers_is_not_saved(
    lr, weight_decay, size, measured, name, tiny, data, held_out, brief, tmp_path
):
    """Its loss, computed before, is finite."""
    recipe = brief("ce", lr=lr, weight_decay=weight_decay, schedule="steps", epochs=1, batch_size=size)
    with pytest.raises(FloatingPointError, match=f"the loss must stay finite, got `{name}` that is not in epoch 1"):
        fit(tiny(), recipe, data, seed=0, held_out=held_out if measured else None, checkpoint=tmp_path / "c", every=0)
    assert not (tmp_path / "c").exists()


def test_precision_by_name(tiny, data, brief):
    with pytest.raises(ValueError, match="`precision` must be one of full, bfloat16, got 'half'"):
        fit(tiny(), brief("ce"), data, seed=0, precision="half")


def test_the_confident_classifier_wants_squares(tiny, data, brief):
    oblong = TrainingSet(data.x[..., :6], data.y, None)
    with pytest.raises(ValueError, match="`x` must be square for confident, got 8 x 6"):
        fit(tiny(), brief("confident"), oblong, seed=0)


def test_held_out_images_are_measured_after_each_epoch(tiny, data, brief):
    """A head that always says class 1, and an energy that is linear in the image: both by hand."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(network[1].weight)
    network[1].bias.data = torch.tensor([0.0, 50.0, 0.0])
    recipe = Recipe(objective="ce", epochs=1, lr=1e-12, weight_decay=0.0, shift=0)
    (line,) = fit(network, recipe, data, seed=0, held_out=HeldOut(data.x, data.y)).curve
    assert line["accuracy"] == pytest.approx(7 / 22)  # of 22 labels 0, 1, 2, 0, ... seven are 1
    network[1].weight.data[1] = 0.25  # E = -logit of class 1, gradient -1/4 in each of 64 pixels: norm 8 / 4
    (line,) = fit(network, replace(recipe, lr=1e-15), data, seed=0, held_out=HeldOut(data.x, data.y)).curve
    assert line["energy_gradient"] == pytest.approx(2.0, rel=1e-4)
