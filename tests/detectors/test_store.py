"""Saving and loading every detector of the table, and files that are not what they should be."""

import json
import os
import sys
from functools import cache
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load as tensors_in
from safetensors.torch import save_file
from small_rows import NETWORKS, ROWS, every, network_for
from torch import nn
from torch.nn.functional import normalize

from oodattack import detectors
from oodattack.classifier import Classifier
from oodattack.detectors import DETECTORS, Fit
from oodattack.detectors.dice import DICE
from oodattack.detectors.energy import Energy
from oodattack.detectors.gram import fit_gram
from oodattack.detectors.knn import KNN
from oodattack.detectors.mahalanobis import Gaussians, Mahalanobis, fit_mahalanobis
from oodattack.detectors.max_logit import MaxLogit
from oodattack.detectors.odin import ODIN
from oodattack.detectors.png_length import PngLength
from oodattack.detectors.si_a import SIA
from oodattack.detectors.si_z import SIZ
from oodattack.detectors.store import fingerprint, load, network_sha256, save
from oodattack.detectors.weighted_sum import WeightedSum, fit_weighted_sum
from oodattack.identity import digest
from oodattack.models.small import SmallResNet

Y = torch.arange(60) % 3


def images(rows, seed=1):
    return torch.rand(rows, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


@cache
def network(seed=0, name=""):
    torch.manual_seed(seed)
    return Classifier(network_for(name, 1).eval(), mean=[0.5], std=[0.25])


@cache
def built(name):
    """A detector of the table, and the network or networks that it stands on."""
    kind = name if name in NETWORKS else ""
    nets = [network(0, kind), network(1, kind)] if DETECTORS[name].several else network(0, kind)
    return ROWS[name].build(nets, Fit(images(60), Y, images(40, 5).sqrt())), nets


def stands_on(detector, nets):
    """What `load` wants: nothing for a detector without a network."""
    return nets if any(isinstance(part, Classifier) for part in detector.modules()) else None


@every()
def test_every_detector_of_the_table_comes_back(tmp_path, name):
    detector, nets = built(name)
    save(detector, tmp_path / "d")
    again, x = load(tmp_path / "d", stands_on(detector, nets)), images(5, 2)
    with torch.no_grad():
        assert torch.equal(again(x), detector(x))
        assert torch.equal(again.latent(x), detector.latent(x))
        if stand_in := getattr(detector, "surrogate", None):
            assert again.surrogate.name == stand_in.name
            assert torch.equal(again.surrogate.score(x), stand_in.score(x))
    assert type(again) is type(detector) and again.name == detector.name
    assert [part for part in again.modules() if part.training] == []
    assert fingerprint(again) == fingerprint(detector) and fingerprint(again) is not None
    state, wanted = again.state_dict(), detector.state_dict()
    assert {k: (t.dtype, t.shape) for k, t in state.items()} == {k: (t.dtype, t.shape) for k, t in wanted.items()}


ALONE = {PngLength: lambda: PngLength(complex_is_ood=True)}  # public classes without a row in the table


def test_every_public_class_is_that_of_a_row_or_among_those_without():
    pytest.importorskip("normflows", reason="what rows of the table are made of")
    public = [getattr(detectors, name) for name in detectors.__all__]
    public = {kind for kind in public if isinstance(kind, type) and issubclass(kind, nn.Module)}
    assert public == {type(built(name)[0]) for name in DETECTORS} | set(ALONE)


@pytest.mark.parametrize("build", ALONE.values(), ids=lambda b: type(b()).__name__)
def test_detectors_without_a_row_come_back_alone_and_in_a_sum(tmp_path, build):
    one, x = build(), images(5, 2)
    for i, detector in enumerate((one, WeightedSum({"a": one, "b": Energy(network())}, [1.0, 0.0], [2.0, 1.0]))):
        save(detector, tmp_path / f"{i}")
        again = load(tmp_path / f"{i}", stands_on(detector, network()))
        assert torch.equal(again(x), detector(x)) and again.name == detector.name
        assert torch.equal(again.surrogate.score(x), detector.surrogate.score(x))
        assert fingerprint(again) == fingerprint(detector) is not None
    assert fingerprint(one) != fingerprint(type(one)())


def test_two_files_that_say_what_they_are(tmp_path):
    detector = fit_mahalanobis(network(), images(60), Y)
    save(detector, tmp_path / "v1.2")  # not an ending
    save(detector, tmp_path / "b.json")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "b.json", "b.safetensors", "v1.2.json", "v1.2.safetensors"
    ]  # fmt: skip
    record = json.loads((tmp_path / "v1.2.json").read_text())
    assert record["format"] == 1 and record["name"] == "mahalanobis" and record["version"]
    assert record["networks"] == [network_sha256(network())]
    assert record["detector"]["class"] == "mahalanobis.Mahalanobis"
    # means and precision once each, though they are argument and state
    tensors = tensors_in((tmp_path / "v1.2.safetensors").read_bytes())
    assert sorted(tuple(t.shape) for t in tensors.values()) == [(3, 16), (16, 16)]
    assert torch.equal(load(tmp_path / "b.safetensors", network())(images(3)), detector(images(3)))


def test_files_have_the_same_bytes_every_time(tmp_path):
    for name in ("a", "b"):
        save(fit_gram(network(), images(30)), tmp_path / name)
    for ending in ("json", "safetensors"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_parts_of_a_sum_share_the_network(tmp_path):
    net = network()
    found = fit_weighted_sum({"si-z": SIZ(net, steps=1), "max-logit": MaxLogit(net)}, images(20))
    save(found, tmp_path / "sum")
    again = load(tmp_path / "sum", net)
    assert again.parts["si-z"].net is again.parts["max-logit"].net is again.net is net
    assert (again.means, again.stds, again.soft_means) == (found.means, found.stds, found.soft_means)
    assert again.name == "si-z+max-logit"


def test_a_sum_over_two_networks_wants_both_in_order(tmp_path):
    a, b, x = network(0), network(1), images(4)
    found = WeightedSum({"a": Energy(a), "b": MaxLogit(b)}, [0.0, 1.0], [1.0, 2.0])
    save(found, tmp_path / "sum")
    assert torch.equal(load(tmp_path / "sum", [a, b])(x), found(x))
    with pytest.raises(ValueError, match=r"`net` must be the network or networks of the detector, 2, got 1"):
        load(tmp_path / "sum", a)
    with pytest.raises(ValueError, match="`net` must be the network that the detector was fitted on"):
        load(tmp_path / "sum", [b, a])


def test_another_network_is_refused_or_taken_on_demand(tmp_path):
    detector = fit_mahalanobis(network(0), images(60), Y)
    save(detector, tmp_path / "d")
    both = f"sha256 {network_sha256(network(0))}, got {network_sha256(network(1))}"
    with pytest.raises(ValueError, match=both):
        load(tmp_path / "d", network(1))
    other = load(tmp_path / "d", network(1), any_network=True)
    assert other.net is network(1) and torch.equal(other.means, detector.means)
    with pytest.raises(ValueError, match=r"of the detector, 1, got 0"):
        load(tmp_path / "d")


def test_a_network_is_its_values_its_normalisation_and_its_head():
    net = network()
    copy = Classifier(SmallResNet(1, 3, width=4).eval(), mean=[0.5], std=[0.25])
    copy.network.load_state_dict(net.network.state_dict())
    assert network_sha256(copy) == network_sha256(net)
    assert network_sha256(copy.double()) == network_sha256(net)  # the same values
    assert network_sha256(Classifier(copy.network, mean=[0.5], std=[0.5])) != network_sha256(net)
    assert network_sha256(Classifier(copy.network, mean=[0.5], std=[0.25], head="pool")) != network_sha256(net)
    copy.network.head.bias.data[0] += 1e-9
    assert network_sha256(copy) != network_sha256(net)


def test_types_are_those_that_were_saved(tmp_path):
    detector = fit_mahalanobis(network(), images(60), Y)
    for dtype in (torch.float32, torch.float64):
        save(Mahalanobis(network(), Gaussians(*(t.to(dtype) for t in detector.gaussians))), tmp_path / "d")
        assert load(tmp_path / "d", network()).precision.dtype == dtype


def test_fingerprint_tells_detectors_apart():
    net, other = network(0), network(1)
    assert fingerprint(Energy(net)) == fingerprint(Energy(other))  # the network is not part of it
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[0, 0] = True
    gaussians = Gaussians(torch.zeros(1, 16), torch.eye(16))
    found = [
        fingerprint(d)
        for d in (
            Energy(net),
            Energy(net, temperature=2.0),
            MaxLogit(net),
            ODIN(net),
            SIZ(net),
            SIZ(net, count="per_step"),
            SIZ(net, delta_weighted=True),
            SIA(net),
            SIA(net, delta_weighted=True),
            DICE(net, mask),
            DICE(net, ~mask),
            Mahalanobis(net, gaussians),
            Mahalanobis(net, Gaussians(*(t.double() for t in gaussians))),
        )
    ]
    assert None not in found and len(set(found)) == len(found)
    assert all(len(one) == 64 for one in found)


class Foreign(nn.Module):
    """User code."""

    def forward(self, x):
        return x.flatten(1).sum(1)


def test_user_code_cannot_be_saved_and_has_no_fingerprint(tmp_path):
    first = lambda x: x.flatten(1)[:, 0]
    foreign = WeightedSum({"a": first}, [0.0], [1.0])
    for detector, found in ((Foreign(), "Foreign"), (first, "function"), (foreign, "function")):
        assert fingerprint(detector) is None
        with pytest.raises(ValueError, match=f"must be of a .* to be saved, got .*{found}|can be saved, got {found}"):
            save(detector, tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


# --- detectors that learn something beside their arguments, in a file of their own --------------------------------


class Setting(NamedTuple):
    scale: float
    names: list[str]


class Code(nn.Module):
    def __init__(self, size, *, generator_seed):
        super().__init__()
        self.size, self.generator_seed = size, generator_seed
        torch.manual_seed(generator_seed)
        self.a, self.b = nn.Linear(size, 2), nn.Linear(size, 2)
        nn.init.zeros_(self.a.bias), nn.init.zeros_(self.b.bias)

    def forward(self, x):
        return self.a(x) * self.b(x)


class Learned(nn.Module):
    name = "learned"

    def __init__(self, code, setting, *, limits, seen):
        super().__init__()
        self.code, self.setting, self.limits, self.seen = code, setting, limits, seen
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        return self.code(x.flatten(1)).sum(1) * self.setting.scale + self.count


class Hidden(Learned):
    """Keeps nothing of `setting`."""

    def __init__(self, code, setting):
        super().__init__(code, setting, limits=[], seen={})
        del self.setting


@pytest.fixture
def learned(monkeypatch):
    """A detector without a network, of classes as `oodattack.detectors` might have them."""
    home = ModuleType("oodattack.detectors.learned")
    for kind in (Setting, Code, Learned, Hidden):
        monkeypatch.setattr(kind, "__module__", home.__name__)
        setattr(home, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, home.__name__, home)
    found = Learned(
        Code(4, generator_seed=1).double().eval(),
        Setting(0.1, ["é", "b"]),
        limits=(float("inf"), -float("inf"), None, True, 7, torch.tensor([])),
        seen={3: [torch.tensor(2)], "x": {}},
    )
    found.count.fill_(5)
    nn.init.normal_(found.code.a.weight)  # as if trained
    return found.eval()


def test_what_was_learned_comes_back_with_all_kinds_of_arguments(tmp_path, learned):
    save(learned, tmp_path / "d")
    again, x = load(tmp_path / "d"), torch.rand(3, 1, 2, 2).double()
    assert torch.equal(again(x), learned(x)) and again(x).dtype == torch.float64
    assert not again.training and not again.code.training
    assert again.setting == learned.setting and type(again.setting) is Setting
    assert again.limits[:5] == learned.limits[:5] and again.limits[5].shape == (0,)
    assert again.seen.keys() == {3, "x"} and again.seen[3][0].item() == 2 and again.seen[3][0].dtype == torch.int64
    assert all(p.requires_grad for p in again.parameters())
    assert fingerprint(again) == fingerprint(learned)


def test_tensors_that_were_equal_do_not_become_one(tmp_path, learned):
    save(learned, tmp_path / "d")
    again = load(tmp_path / "d")
    again.code.a.bias.data.fill_(1)
    assert (again.code.b.bias == 0).all()


def test_modes_are_kept(tmp_path, learned):
    save(learned.train(), tmp_path / "d")
    assert load(tmp_path / "d").code.training


def test_an_argument_that_is_not_kept_is_named(tmp_path, learned):
    with pytest.raises(ValueError, match=r"must keep the argument 'setting' of learned.Hidden as an attribute"):
        save(Hidden(learned.code, learned.setting), tmp_path / "d")
    learned.limits = {1, 2}
    with pytest.raises(ValueError, match=r"`detector`.limits must be of a kind that can be saved, got set"):
        save(learned, tmp_path / "d")


# --- files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """Path of a good pair of files, with `edit(f)` that changes the record."""
    path = tmp_path / "d"
    save(fit_mahalanobis(network(), images(60), Y), path)

    def edit(change):
        record = json.loads(path.with_suffix(".json").read_text())
        change(record)
        path.with_suffix(".json").write_text(json.dumps(record))

    return path, edit


def test_an_argument_that_an_older_version_lacked_has_its_default(tmp_path):
    fitted, path = KNN(network(), normalize(torch.rand(9, 8), dim=1), k=2), tmp_path / "d"
    save(fitted, path)
    record = json.loads(path.with_suffix(".json").read_text())
    dropped("detector", "arguments", "classes")(record)
    path.with_suffix(".json").write_text(json.dumps(record))
    x = images(4)
    assert torch.equal(load(path, network()).bank, fitted.bank) and load(path, network()).classes is None
    assert torch.equal(load(path, fitted.net).latent(x), fitted.latent(x))


def replaced(*keys, by):
    """A change of one entry of the record."""

    def change(record):
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = by

    return change


def dropped(*keys):
    def change(record):
        for key in keys[:-1]:
            record = record[key]
        del record[keys[-1]]

    return change


CLASSES = ["os.system", "os.path.join", "subprocess.Popen", "..os.system", "store.os", "energy.Tensor", "energy.energy",
           "mahalanobis.nowhere", "mahalanobis.Mahalanobis.forward", "../../evil.X", "", "store.Stock"]  # fmt: skip
EDITS = {
    "format": (replaced("format", by=2), "must be a detector of format 1, got 2"),
    "no format": (dropped("format"), "must be a detector of format 1, got None"),
    "another name": (replaced("name", by="knn"), "`name` must be 'mahalanobis', that of mahalanobis.Maha.*got 'knn'"),
    "no networks": (dropped("networks"), "must be as `save` writes it, got KeyError: 'networks'"),
    "no detector": (dropped("detector"), "must be as `save` writes it, got KeyError: 'detector'"),
    "detector a list": (replaced("detector", by=[]), "must be as `save` writes it, got TypeError"),
    "class a number": (replaced("detector", "class", by=1), "must be as `save` writes it, got TypeError"),
    "a known class": (replaced("detector", "class", by="energy.Energy"), "energy.Energy must have arguments"),
    "argument missing": (dropped("detector", "arguments", "gaussians"), r"must have arguments .*, got \['net'\]"),
    "argument too many": (replaced("detector", "arguments", "eps", by=1), "must have arguments"),
    "argument of a kind": (replaced("detector", "arguments", "gaussians", by=3), "must be as `save` writes it, got"),
    "kind": (replaced("detector", "arguments", "net", by={"kind": "pickle"}), "of a known kind, got 'pickle'"),
    "network index": (replaced("detector", "arguments", "net", "index", by=4), "as `save` writes it, got IndexError"),
    "no such tensor": (replaced("detector", "state", "means", by="../../etc/passwd"), "got none called '../../etc/pa"),
    "state missing": (dropped("detector", "state", "means"), "must have the state"),
    "state too much": (lambda r: r["detector"]["state"].update(extra=r["detector"]["state"]["means"]), "the state"),
    "shapes": (lambda r: r["detector"]["state"].update(means=r["detector"]["state"]["precision"]), "the state"),
    "foreign tuple": (
        replaced("detector", "arguments", "gaussians", "class", by="os.stat_result"),
        "classes must be such as oodattack.detectors has, got 'os.stat_result'",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_record_that_is_not_as_it_should_be(saved, name):
    (path, edit), (change, message) = saved, EDITS[name]
    edit(change)
    with pytest.raises(ValueError, match=message):
        load(path, network())


@pytest.mark.parametrize("name", CLASSES)
def test_only_classes_of_the_package_are_looked_up(saved, name):
    path, edit = saved
    edit(replaced("detector", "class", by=name))
    with pytest.raises(ValueError, match=r"classes must be such as oodattack.detectors has, got"):
        load(path, network())


@pytest.mark.parametrize("words", ["", "{", "[1, 2]", "null", "\x00\xff", "[" * 100_000, '{"format": NaN}'])
def test_a_file_that_is_not_json(saved, words):
    path, _ = saved
    path.with_suffix(".json").write_text(words, encoding="latin-1")
    with pytest.raises(ValueError, match=r"d\.json: must be (JSON as|a detector of format 1, got)"):
        load(path, network())


def test_tensors_that_are_not_those_of_the_record(saved):
    path, _ = saved
    file = path.with_suffix(".safetensors")
    good, tensors = file.read_bytes(), tensors_in(file.read_bytes())
    for data in (b"", b"nonsense", good[:-1], good[:40]):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"d\.safetensors: must be a safetensors file, got"):
            load(path, network())
    key = next(iter(tensors))
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))  # one bit
    with pytest.raises(ValueError, match="tensors must be named by their sha256"):
        load(path, network())
    save_file({**tensors, "../x": torch.ones(1)}, file)
    with pytest.raises(ValueError, match=r"tensors must be named by their sha256, got '\.\./x'"):
        load(path, network())
    save_file({**tensors, digest(torch.ones(1)): torch.ones(1)}, file)
    with pytest.raises(ValueError, match=r"the tensors must be those of the JSON file, got .* too"):
        load(path, network())
    save_file({k: t for k, t in tensors.items() if k != key}, file)
    with pytest.raises(ValueError, match=f"the tensors must be those of the JSON file, got none called '{key}'"):
        load(path, network())


@pytest.mark.parametrize("ending", [".json", ".safetensors"])
def test_a_missing_file_is_named(saved, ending):
    path, _ = saved
    path.with_suffix(ending).unlink()
    with pytest.raises(ValueError, match=rf"d\{ending}: must be a file that can be read"):
        load(path, network())


def test_a_folder_that_is_not_there_is_made(tmp_path):
    save(Energy(network()), tmp_path / "new" / "d")
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"d.json", "d.safetensors"}


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"d\.safetensors: must be a file that can be written, got (Not a|File exi)"):
        save(Energy(network()), tmp_path / "file" / "d")


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_files_alone(saved, monkeypatch, fails):
    path, _ = saved
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, fails, fail)
    with pytest.raises(ValueError, match="must be a file that can be written, got no space left"):
        save(Energy(network()), path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
