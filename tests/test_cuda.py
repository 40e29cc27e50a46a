"""On a GPU: every detector, attack, threat model and recipe works there, and says what it says on the CPU.

All of it is skipped where there is no GPU.
"""

import json
import sys
from dataclasses import replace

import pytest
import torch
from small_rows import ROWS, every, network_for
from small_run import RUN, fill
from torch import nn

import oodattack as oa
from oodattack.attacks.torchattacks_adapter import names as foreign_names
from oodattack.attacks.torchattacks_table import ATTACKS as FOREIGN
from oodattack.bounds import Smoothed, score_bounds, smoothed_bounds
from oodattack.cli import main
from oodattack.detectors import Fit
from oodattack.evaluation.batch import automatic
from oodattack.evaluation.part import fast
from oodattack.models.small import SmallResNet
from oodattack.threat import Suite, Sweep, ThreatModel, presets, read_threat
from oodattack.train import RECIPES, TrainingSet, fit

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
TRAINED = ("auto-encoder", "glow", "glow-png", "ccu", "sal-agg", "sal-agg+mls")  # fitted by steps or draws
EPS = {"linf": 0.03, "l2": 0.3, "l1": 1.0}


def images(n, *, channels=3, size=32, seed=2, dtype=torch.float32, device=DEVICE):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, size, size, generator=draw, dtype=torch.float64).to(device, dtype)


def network(channels=3, *, name="", dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    net = network_for(name, channels)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    return oa.Classifier(net.eval().to(dtype), mean=[0.5] * channels, std=[0.25] * channels)


def energy(device=DEVICE):
    return oa.detectors.Energy(network().to(device))


def short(threat, most=40):
    """A threat model with few queries."""
    if isinstance(threat, Sweep):
        return threat
    if isinstance(threat, Suite):
        members = [short(m, most) for m in threat.members]
        enough = max(4 * most, *[member.queries for member in members])
        own = {"name": f"short-{threat.name}", "members": tuple(members), "queries": threat.queries and enough}
        return threat.model_copy(update=own)
    each = most * threat.restarts * (threat.draws or 1)
    return threat.model_copy(update={"name": f"short-{threat.name}", "queries": min(threat.queries, each)})


def limits(**fields):
    values = dict(
        name="t", norm="linf", eps=8 / 255, aim="hide", objective="score", start="ood", init="ball", attack="apgd",
        queries=20, restarts=1, iterate="best", source="test",
    )  # fmt: skip
    return ThreatModel(**(values | fields))


def evaluated(detector, threats, *, device=DEVICE, n=6, size=32, **options):
    id, x, targets = [images(n, size=size, seed=seed, device=device) for seed in (3, 4, 5)]
    id, targets = id / 2, targets / 2
    return oa.evaluate(detector, id=id, ood={"x": x}, threats=threats, targets=targets, seed=0, **options)


@every()
def test_detectors_say_what_they_say_on_the_cpu(name):
    found = {}
    for device in ("cpu", DEVICE):
        nets = [network(1, name=name, dtype=torch.float64, seed=i).to(device) for i in range(2)]
        own = {"channels": 1, "dtype": torch.float64, "device": device}
        data = Fit(images(60, seed=1, **own), torch.arange(60, device=device) % 3, 1 - images(60, seed=4, **own) ** 3)
        found[device] = ROWS[name].on(nets, data)
    x = images(6, channels=1, dtype=torch.float64, device="cpu")
    expected = found["cpu"](x).detach()
    if name in TRAINED:
        assert found[DEVICE](x.to(DEVICE)).isfinite().all()
    moved = found["cpu" if name in TRAINED else DEVICE].to(DEVICE)
    z = x.to(DEVICE).requires_grad_()
    score = moved(z).detach()
    assert score.device == moved.latent(z).device == z.device
    torch.testing.assert_close(score.cpu(), expected, rtol=1e-6, atol=1e-6)
    surrogate = getattr(moved, "surrogate", None)
    f = moved if surrogate is None else surrogate.score
    if (value := f(z)).requires_grad:
        (grad,) = torch.autograd.grad(value.sum(), z)
        assert grad.isfinite().all()


def test_a_classifier_around_a_network_that_is_there_already():
    net = SmallResNet(3, 4, width=4).eval().to(DEVICE)
    assert oa.Classifier(net, mean=[0.5] * 3, std=[0.25] * 3)(images(2)).shape == (2, 4)
    assert oa.Classifier(net)(images(2)).shape == (2, 4)


@pytest.mark.parametrize("name", presets())
def test_threat_models_end_where_they_end_on_the_cpu(name):
    threat = short(read_threat(name))
    ends, size = [], 64 if name == "patch-60" else 32
    for device in ("cpu", DEVICE):
        own = {"size": size, "device": device}
        starts = {which: images(6, seed=6, **own) for which in ("noise", "colour-spiral", "id")}
        ends.append(evaluated(energy(device), [threat], starts=starts, **own).results)
    for on_cpu, on_gpu in zip(*ends, strict=True):
        assert on_gpu.clean.auroc == on_cpu.clean.auroc
        assert on_gpu.attacked.auroc == pytest.approx(on_cpu.attacked.auroc, abs=0.15)  # of 36 pairs
        assert on_gpu.queries <= on_cpu.queries * 1.5 + 10


@pytest.mark.parametrize(("name", "norm"), [(name, norm) for name in foreign_names() for norm in FOREIGN[name].norms])
def test_attacks_of_torchattacks(name, norm):
    threat = limits(attack=f"torchattacks:{name}", norm=norm, eps=EPS[norm], queries=40)
    (result,) = evaluated(energy(), [threat], n=2).results
    assert result.attacked.auroc <= result.clean.auroc


def test_bfloat16_search_is_scored_in_full():
    (full,) = evaluated(energy(), [limits()]).results
    (fast,) = evaluated(energy(), [limits()], precision="bfloat16").results
    assert fast.clean.auroc == full.clean.auroc
    assert fast.attacked.auroc == pytest.approx(full.attacked.auroc, abs=0.15)


@pytest.mark.parametrize(("precision", "channels_last"), [("full", False), ("bfloat16", True)])
def test_layout_of_the_folded_copy(precision, channels_last):
    detector = energy()
    x = images(4)
    fast(lambda z, _: detector(z), precision)(x, None)
    copy = detector.net._copies.folded
    weights = [m.weight for m in copy.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert all(w.is_contiguous() != channels_last for w in weights)


def test_the_same_run_twice_is_the_same():
    first, again = (evaluated(energy(), [limits(queries=50)], n=16).results[0] for _ in range(2))
    assert first.attacked == again.attacked and first.queries == again.queries


def test_scores_are_not_rounded_to_tf32():
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
            product = torch.nn.functional.conv2d(x, x.new_full((1, 3, 3, 3), 1 / 3))  # TF32 has no third
            exact = torch.nn.functional.conv2d(x.double(), x.new_full((1, 3, 3, 3), 1 / 3).double())
            assert (product.double() - exact).abs().max() < 1e-5
            return product.flatten(1).mean(1)

    evaluated(Watching().eval(), [limits(queries=3)])
    assert not any(seen)


class Hungry(nn.Module):
    """Takes 64 MiB a row on its way to the mean of an image."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, x):
        self.rows.append(len(x))
        many = x.flatten(1)[:, :1].expand(-1, 16 * 2**20) * 1.0
        return x.flatten(1).mean(1) + 0 * many.mean(1)


@pytest.fixture
def little_memory():
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2 * 2**30) / whole)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_out_of_memory_makes_batches_smaller_and_changes_nothing(little_memory):
    hungry = Hungry().eval()
    (small,) = evaluated(hungry, [limits()], n=64, batch_size=64).results
    assert max(hungry.rows) == 64 and 0 < min(hungry.rows) < 64
    (plain,) = evaluated(lambda x: x.flatten(1).mean(1), [limits()], n=64, batch_size=64).results
    assert small.attacked.auroc == plain.attacked.auroc and small.queries == plain.queries


def test_the_batch_found_is_larger_where_rows_are_small():
    x = images(64)
    assert automatic(Hungry().eval(), x).size < automatic(energy(), x).size <= 4096


def test_memory_is_set_by_the_batch():
    def peak(n):
        detector, id, x = energy(), images(16, seed=3), images(n)
        torch.cuda.reset_peak_memory_stats()
        oa.evaluate(detector, id=id, ood={"x": x}, threats=[limits(queries=5)], seed=0, batch_size=32)
        return torch.cuda.max_memory_allocated(), x.numel() * x.element_size()

    (few, small), (many, large) = peak(64), peak(512)
    assert many - few <= 5 * (large - small)  # copies of the images, and not what a batch takes


def test_bounds():
    x = images(3)
    detector = energy()
    found = score_bounds(detector, x, norm="linf", eps=1 / 255)
    own = detector(x).detach().cpu()
    assert (found.lower <= own).all() and (own <= found.upper).all()


def test_certified_beside_attacked():
    (result,) = evaluated(energy(), [limits(eps=1e-4)], certify=True).results
    assert result.certified is not None and result.uncertified is None


def test_smoothed_scores_and_their_bounds():
    smoothed = Smoothed(energy(), sigma=0.1, draws=9, seed=0)
    (result,) = evaluated(smoothed, [limits(queries=5)], n=2).results
    assert result.attacked.auroc <= result.clean.auroc
    found = smoothed_bounds(energy(), images(2), eps=0.1, sigma=0.1, draws=200, alpha=0.05, seed=0)
    assert (found.lower <= found.upper).all()


@pytest.mark.parametrize("objective", RECIPES)
def test_recipes_train(objective):
    short_recipe = {"start": None, "epochs": 1, "batch_size": 8, "shift": 1, "chain": 3, "buffer": 12}
    brief = replace(RECIPES[objective], **short_recipe)
    data = TrainingSet(images(24, seed=7, device="cpu") / 2, torch.arange(24) % 3, images(24, seed=8, device="cpu"))
    torch.manual_seed(0)
    net = SmallResNet(3, 3 + brief.extra_classes, width=4).to(DEVICE)
    before = [p.detach().cpu().clone() for p in net.parameters()]
    fit(net, brief, data, seed=0)
    after = [p.detach().cpu() for p in net.parameters()]
    assert all(p.isfinite().all() for p in after) and not all(map(torch.equal, before, after))


class Stop(Exception):
    """In the middle of a training."""


def test_training_goes_on_where_it_was(tmp_path):
    def trained(**options):
        torch.manual_seed(0)
        net = SmallResNet(3, 3, width=4).to(DEVICE)
        fit(net, brief, data, seed=0, **options)
        return net

    def stop(_name, done, _total):
        if done == 4:
            raise Stop

    brief = replace(RECIPES["ce"], epochs=2, batch_size=8)
    data = TrainingSet(images(24, seed=7, device="cpu"), torch.arange(24) % 3, None)
    whole = trained()
    with pytest.raises(Stop):
        trained(checkpoint=tmp_path, every=0, progress=stop)
    for one, other in zip(whole.parameters(), trained(checkpoint=tmp_path, every=0).parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)  # cuDNN chooses its algorithms anew


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("mine", "there"):
        sys.modules.pop(name, None)


def test_the_command_line_trains(workplace, capsys, monkeypatch):
    monkeypatch.setenv("OODATTACK_CACHE", str(workplace / "cache"))
    words = "train --id npz:id.npz --model mine:net --epochs 1 --batch-size 6 --objective ce --out net.safetensors"
    assert main([*words.split(), "--device", DEVICE]) == 0, capsys.readouterr().err
    assert (workplace / "net.safetensors").exists()


def test_a_run_its_verification_gallery_and_gate(workplace, capsys):
    words = [*RUN, "--device", DEVICE]
    assert main(words) == 0, capsys.readouterr().err
    report = json.loads((workplace / "out" / "report.json").read_text())
    assert report["spec"]["device"].startswith(DEVICE)
    assert main(["verify", "out"]) == 0, capsys.readouterr().out
    assert main(["gallery", "out"]) == 0, capsys.readouterr().err
    assert main(["check", "out", "--baseline", "b.json", "--update"]) == 0, capsys.readouterr().err
    assert main(["check", "out", "--baseline", "b.json"]) == 0, capsys.readouterr().err


FUNCTION = f"""
import torch
net = torch.nn.Linear(64, 1, device="{DEVICE}")
torch.nn.init.ones_(net.weight)

def score(x):
    return net(x.flatten(1)).flatten()

def by_the_cpu(x):
    return net(x.flatten(1)).flatten().detach().cpu()
"""


def test_functions_are_given_images_where_the_run_computes(workplace, capsys):
    (workplace / "there.py").write_text(FUNCTION)
    words = "run --id npz:id.npz --ood npz:ood.npz --threat quick.toml --out out --device".split()
    assert main([*words, DEVICE, "--detector", "there:by_the_cpu"]) == 2
    assert "must return scores where its images are" in capsys.readouterr().err
    assert main([*words, DEVICE, "--detector", "there:score"]) == 0, capsys.readouterr().err
    assert main(["verify", "out"]) == 0, capsys.readouterr().out
    assert main(["gallery", "out"]) == 0, capsys.readouterr().err
