"""Whatever the user gets wrong: exit code 2, one line on standard error that says what to do, and nothing written."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from oodattack.cli import main
from oodattack.threat import preset_folder

CODE = """
import traceback
import torch
from torch import nn

def fine(x): return x.flatten(1).mean(1)
def column(x): return x.flatten(1).mean(1)[:, None]
def nans(x): return fine(x) * float("nan")
def raises(x): raise RuntimeError("out of\\nsorts")
def raises_in_a_search(x): return raises(x) if any(f.name == "maximise" for f in traceback.extract_stack()) else fine(x)
def leaves(x): raise SystemExit(3)
def leaves_a_search(x): return leaves(x) if x.requires_grad else fine(x)
def make_leaves(): raise SystemExit(3)
def listed(x): return [0.0] * len(x)
def make_fails(): raise KeyError("weights")
def make_nothing(): return None
number = 3

class Training(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.drop = nn.Dropout()
    def forward(self, x): return fine(self.drop(x))

class Wants:
    def __init__(self, net): self.net = net
    def __call__(self, x): return self.net(x)

class Lazy(nn.LazyLinear):
    def __init__(self):
        super().__init__(1)
        self.eval()

def net(channels, classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
def two(channels, classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
def leaky(): return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.LeakyReLU(), nn.Linear(64, 3)).eval()
def net_fails(): raise OSError("no such checkpoint")
def net_no(): return "resnet"
"""
LONG = "n" * 300  # no file system takes that
LINF = (preset_folder() / "linf-8-255.toml").read_text(encoding="utf-8")


def changed(**fields: str) -> str:
    lines = [line for line in LINF.splitlines() if line.split(" =")[0] not in fields]
    return "\n".join([*lines, *(f"{field} = {value}" for field, value in fields.items() if value)])


THREATS = {
    "eps8.toml": changed(eps="8"),
    "missing.toml": changed(norm=""),
    "unknown.toml": changed(direction='"hide"'),
    "type.toml": changed(queries='"fifty"'),
    "words.toml": "norm is linf",
    "match.toml": changed(match='"latent"'),
    "step.toml": changed(step_size='"1/4"'),
    "linf-8-255.toml": changed(eps='"9/255"'),
    "disagree.toml": 'members = ["linf-8-255", "l2-1"]\nsource = "s"',
    "lower.toml": changed(attack='"torchattacks:pgd"'),
    "itself.toml": 'members = ["itself.toml"]\nsource = "s"',
    "picture.toml": changed(start='"picture:broken.png"'),
    "no-picture.toml": changed(start='"picture:nowhere.png"'),
}


class Evil:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return open, ("owned", "w")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with images, user code, threat files and weights, most of them wrong."""
    draw = np.random.default_rng(0)
    good = draw.random((6, 1, 8, 8), dtype=np.float32)
    arrays = {
        "id": good, "ood": good[::-1] * 0.9, "bright": good * 255, "nan": np.full_like(good, np.nan),
        "rgb": np.repeat(good, 3, axis=1), "empty": good[:0],
    }  # fmt: skip
    for name, images in arrays.items():
        np.savez(tmp_path / f"{name}.npz", images=images, **({} if name != "id" else {"labels": np.arange(6) % 2}))
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "broken_mine.py").write_text("raise RuntimeError('first line\\nsecond line')")
    (tmp_path / "leaving_mine.py").write_text("import sys; sys.exit(0)")
    for name, text in THREATS.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    (tmp_path / "file").write_text("")
    (tmp_path / "full" / "detectors").mkdir(parents=True)
    (tmp_path / "full" / "detectors" / "mine.txt").write_text("not to be taken away")
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "report.json").write_text("{}")
    torch.save({"weight": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Path("x")))
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save({}, tmp_path / "empty.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    torch.save({1: torch.zeros(2, 2)}, tmp_path / "numbers.pt")
    torch.save({"1.weight": torch.zeros(2, 3), "1.bias": torch.zeros(2)}, tmp_path / "other.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("OODATTACK_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    for name in ("mine", "broken_mine", "leaving_mine"):
        sys.modules.pop(name, None)


USER = ["run", "--detector", "mine:fine", "--threat", "linf-8-255", "--id", "npz:id.npz", "--ood", "npz:ood.npz"]


def given(**options: str) -> list[str]:
    """A run that works, but for some options."""
    words = list(USER)
    for option, value in options.items():
        flag = f"--{option}"
        if flag in words:
            words[words.index(flag) + 1] = value
        else:
            words += [flag, value]
    return words


def without(flag: str, words: list[str]) -> list[str]:
    """The same command without a flag and its value."""
    at = words.index(flag)
    return [*words[:at], *words[at + 2 :]]


def network(**options: str) -> list[str]:
    return given(**({"detector": "msp", "model": "mine:net"} | options))


# words that must be on the line: what, rule, value, remedy
BAD = {
    "detector": (
        ["run", "--detector", "enrgy"],
        ["`--detector` must be one of", "got 'enrgy'", "Did you mean 'energy'?"],
    ),
    "network": (
        ["run", "--detector", "energy@gerg"],
        ["`network` must be one of", "got 'gerg'", "Did you mean 'greg'?"],
    ),
    "threat": (
        ["run", "--threat", "linf-8-256"],
        ["`threat` must be one of", "got 'linf-8-256'", "Did you mean 'linf-8-255'?"],
    ),
    "data set": (given(ood="spiral"), ["`--ood` must be one of", "got 'spiral'", "Did you mean 'spirals'?"]),
    "id set": (given(id="digit"), ["`--id` must be one of", "got 'digit'", "Did you mean 'digits'?"]),
    "id set without a name": (given(id=""), ["`--id` must be one of digits,", "got ''", "Pick one"]),
    "set to fit on without a name": (given(fit=""), ["`--fit` must be one of digits,", "got ''", "Pick one"]),
    "group": (given(ood="near"), ["`near` must go with one of the ID sets digits,", "got 'npz:id.npz'", "near:digits"]),
    "objective": (
        ["train", "--objective", "gregg", "--out", "x.safetensors"],
        ["`--objective` must be one of", "got 'gregg'", "Did you mean 'greg'?"],
    ),
    "train out": (
        ["train", "--objective", "ce", "--out", "x.pt"],
        ["`--out` must end in .safetensors", "got 'x.pt'", "Rename"],
    ),
    "kind of list": (["list", "detektors"], ["'detektors'", "detectors", "oodattack list --help"]),
    "range": (
        given(ood="npz:bright.npz"),
        ["`npz:bright.npz` must be in [0, 1]", "got [", "Divide 8-bit values by 255"],
    ),
    "NaN images": (given(ood="npz:nan.npz"), ["`npz:nan.npz` must be finite", "got NaN", "Remove"]),
    "empty set": (given(ood="npz:empty.npz"), ["`npz:empty.npz` must hold at least one image", "got (0, 1, 8, 8)"]),
    "a file without npz:": (given(id="id.npz"), ["must be one of", "got 'id.npz'", "Did you mean 'npz:id.npz'?"]),
    "a folder without folder:": (given(ood="full"), ["got 'full'", "Did you mean 'folder:full'?"]),
    "a module without a name": (given(detector="mine"), ["got 'mine'", "Did you mean 'mine:NAME'?"]),
    "a network without a name": (network(model="mine"), ["got 'mine'", "Did you mean 'mine:NAME'?"]),
    "module with .py": (given(detector="mine.py:fine"), ["`mine.py:fine` must read pkg.mod:name", "no .py"]),
    "leaves": (
        given(detector="mine:leaves"),
        ["'mine:leaves' must score images (1, 8, 8)", "SystemExit: 3", "Correct"],
    ),
    "leaves a search": (given(detector="mine:leaves_a_search"), ["must return", "SystemExit: 3", "Correct"]),
    "maker leaves": (given(detector="mine:make_leaves"), ["must make a detector", "SystemExit: 3", "Correct"]),
    "images leave": (given(ood="mine:make_leaves"), ["must return images", "SystemExit: 3", "Correct"]),
    "network leaves": (network(model="mine:make_leaves"), ["must make a network", "SystemExit: 3", "Correct"]),
    "nobody at the address": (
        given(detector="http://127.0.0.1:9/#budget=2000&retries=0"),
        ["must answer, got", "after one try. Start the server or check the address."],
    ),
    "no run to show": (["gallery", "nope"], ["nope/evidence.json", "Check the path."]),
    "no run to verify": (["verify", "nope"], ["nope/manifest.json", "Check the path."]),
    "shapes": (
        given(ood="npz:rgb.npz"),
        ["`npz:rgb.npz` must have the shape of the ID images, (1, 8, 8)", "got (3, 8, 8)", "Resize"],
    ),
    "no array file": (given(ood="npz:nowhere.npz"), ["`npz:nowhere.npz` must name a file", "Check the path"]),
    "no ood": (
        ["run", "--detector", "mine:fine", "--id", "npz:id.npz"],
        ["`--ood` must name a data set", "got none", "Add one", "npz:PATH"],
    ),
    "NaN scores": (
        given(detector="mine:nans"),
        ["'mine:nans' must return finite scores", "NaN", "Correct the detector"],
    ),
    "column": (given(detector="mine:column"), ["one score a row, shape (6,)", "got (6, 1)", "Return a flat tensor"]),
    "list": (given(detector="mine:listed"), ["'mine:listed' must return one score a row", "got list", "flat tensor"]),
    "raises": (
        given(detector="mine:raises"),
        ["'mine:raises' must score images (1, 8, 8)", "RuntimeError: out of sorts (mine.py, line 9)", "Correct"],
    ),
    "raises in a search": (
        given(detector="mine:raises_in_a_search"),
        ["must score any images in [0, 1]", "RuntimeError: out of sorts (mine.py, line 9)", "Correct"],
    ),
    "training": (
        given(detector="mine:Training"),
        ["'mine:Training' must be in eval mode", "got training mode", "Call .eval()"],
    ),
    "class": (
        given(detector="mine:Wants"),
        ["'mine:Wants' must be an object, got the class Wants", "Make one of it: Wants(...)"],
    ),
    "lazy": (
        given(detector="mine:Lazy"),
        ["'mine:Lazy' must have all its weights, got 'weight'", "Call it on a batch"],
    ),
    "maker fails": (
        given(detector="mine:make_fails"),
        ["`mine:make_fails` must make a detector", "KeyError: 'weights'", "Correct"],
    ),
    "maker makes nothing": (
        given(detector="mine:make_nothing"),
        ["must give a detector", "got NoneType", "Return a callable"],
    ),
    "no callable": (
        given(detector="mine:number"),
        ["`mine:number` must be callable", "got int", "Wrap it in a function"],
    ),
    "no such name": (given(detector="mine:score"), ["`mine:score` must name something in mine", "Check the spelling"]),
    "near a name": (given(detector="mine:raise"), ["something in mine", "Did you mean 'raises'?"]),
    "no such module": (
        given(detector="nowhere.mod:f"),
        ["`nowhere.mod:f` must name an importable module", "Check name"],
    ),
    "path": (given(detector="./mine.py:fine"), ["must read pkg.mod:name", "no .py"]),
    "import fails": (
        given(detector="broken_mine:f"),
        ["`broken_mine:f` must import", "RuntimeError: first line second line"],
    ),
    "import leaves": (
        given(detector="leaving_mine:f"),
        ["`leaving_mine:f` must import", "SystemExit", "Correct the module"],
    ),
    "network of mine training": (network(), ["must be in eval mode", "got training mode", "Call .eval()"]),
    "network of mine fails": (
        network(model="mine:net_fails"),
        ["`mine:net_fails` must make a network", "OSError: no such checkpoint", "Correct it"],
    ),
    "no network": (network(model="mine:net_no"), ["`mine:net_no` must return an nn.Module", "got str"]),
    "model": (network(model="smal"), ["must be one of small", "got 'smal'", "Did you mean 'small'?"]),
    "no weights": (network(model="small"), ["`--weights` must be given for 'small'", "got none"]),
    "weights missing": (network(weights="nowhere.pt"), ["nowhere.pt: weights must exist", "Check the path"]),
    "weights evil": (
        network(weights="evil.pt"),
        ["evil.pt: weights must be .safetensors or plain tensors", "Save `state_dict()`"],
    ),
    "weights pickled": (
        network(weights="pickle.pt"),
        ["pickle.pt: weights must be .safetensors or plain tensors", "Save `state_dict()`"],
    ),
    "weights text": (network(weights="text.safetensors"), ["text.safetensors: weights must be", "Save `state_dict()`"]),
    "weights empty": (
        network(weights="empty.pt"),
        ["empty.pt: weights must be a state dict of tensors", "got dict", "Save"],
    ),
    "weights list": (
        network(weights="list.pt"),
        ["list.pt: weights must be a state dict of tensors", "got list", "Save"],
    ),
    "weights numbers": (network(weights="numbers.pt"), ["numbers.pt: weights must be a state dict of tensors", "Save"]),
    "weights of another": (
        network(weights="other.pt"),
        [
            "other.pt: weights must fit the network",
            "1 of another shape (1.weight: (2, 3) for (2, 64))",
            "Check its name",
        ],
    ),
    "network without a model": (
        given(detector="msp"),
        ["`--model` must name a network for 'msp'", "got none", "Add it"],
    ),
    "fit": (
        network(detector="mahalanobis"),
        ["`--fit` must name labelled ID training images", "got none", "Add npz:PATH"],
    ),
    "fit of another shape": (
        network(detector="mahalanobis", fit="digits"),
        ["'mahalanobis' must fit the network", "--fit"],
    ),
    "fit without labels": (
        network(detector="mahalanobis", fit="npz:ood.npz"),
        ["`--fit` must have labels", "got none", "`labels`"],
    ),
    "outlier class of ID": (
        network(detector="outlier-class", model="mine:two"),
        ["outlier-class must have a network with an outlier class", "got 2 logits for labels 0..1 of --id", "Take"],
    ),
    "outlier class of ID to fit on": (
        [*network(detector="outlier-class", model="mine:two", id="npz:ood.npz", fit="npz:id.npz"), "--detector", "knn"],
        ["outlier-class must have a network with an outlier class", "got 2 logits for labels 0..1 of --fit", "Take"],
    ),
    **{
        f"{name} behind leaky ReLUs": (
            network(detector=name, model="mine:leaky", fit="npz:id.npz"),
            [
                f"detector '{name}",
                "the network must have ReLUs behind its norm layers",
                "got none",
                "use gaia-a or si-a",
            ],
        )
        for name in ("gaia-z", "si-z", "si-z+max-logit")
    },
    "eps of 8": (
        given(threat="eps8.toml"),
        ["eps8.toml: `eps` must be in (0, 1] for linf", "got 8", "Write 8/255, not 8"],
    ),
    "field missing": (given(threat="missing.toml"), ["missing.toml: `norm` must be given", "got nothing", "Add it"]),
    "field unknown": (
        given(threat="unknown.toml"),
        ["unknown.toml: `direction` must be a known field", "Correct or drop it"],
    ),
    "field of a wrong type": (
        given(threat="type.toml"),
        ["type.toml: `queries` must be a valid integer", "'fifty'", "Correct"],
    ),
    "not TOML": (given(threat="words.toml"), ["words.toml: threat file must be readable TOML", "Correct the file"]),
    "no threat file": (given(threat="nowhere.toml"), ["nowhere.toml: threat file must exist", "Check the path"]),
    "match without aim": (
        given(threat="match.toml"),
        ['match.toml: `match` belongs only to aim = "match"', "'latent'", "Drop"],
    ),
    "step for apgd": (
        given(threat="step.toml"),
        ["step.toml: `step_size` belongs only to attack = pgd or adamax", "0.25", "Drop"],
    ),
    "name of a shipped one": (
        given(threat="linf-8-255.toml"),
        ["`threats` must not bear the name of a shipped threat model", "`eps` changed", "or the file another one"],
    ),
    "suite disagrees": (
        given(threat="disagree.toml"),
        ["disagree.toml: `members` must agree in `norm`", "got linf in", "l2 in l2-1"],
    ),
    "suite of itself": (
        given(threat="itself.toml"),
        ["itself.toml: `members` must not name the suite itself", "Drop it"],
    ),
    "picture": (
        without("--ood", given(threat="picture.toml")),
        ["`picture:broken.png` must be a readable picture", "got", "Save it as PNG"],
    ),
    "no picture": (
        without("--ood", given(threat="no-picture.toml")),
        ["`picture:nowhere.png` must name a file", "Check the path"],
    ),
    "ood that no threat uses": (given(threat="picture.toml"), ["`--ood` must be used by a threat", "Drop it"]),
    "out below a file": (
        given(out="file/run"),
        ["`--out` must be a writable folder", "got 'file/run'", "Choose another"],
    ),
    "out is done": (
        given(out="done"),
        ["`--out` must not hold a report yet", "got 'done'", "Choose another folder, or remove it"],
    ),
    "out has files": (
        given(out="full"),
        ["`--out` must be a new or empty folder", "got 'full' with files", "Choose another"],
    ),
    **{
        f"{words[0]}: {name}": (words, [LONG, "must", "got File name too long. Check"])
        for name, words in {
            "out": given(out=LONG),
            "id": given(id=f"npz:{LONG}"),
            "ood": given(ood=f"folder:{LONG}"),
            "the run": ["verify", LONG],
            "its pictures": ["gallery", LONG],
            "plan": ["run", "--resume", LONG],
            "report": ["check", LONG, "--baseline", "id.npz"],
        }.items()
    },
    "samples": (given(samples="1"), ["--samples", "1", "x>=2", "oodattack run --help"]),
    "samples in words": (given(samples="few"), ["--samples", "'few'", "integer", "oodattack run --help"]),
    "seed": (given(seed="-1"), ["--seed", "-1", "0<=x<="]),
    "option": ([*USER, "--detecter", "energy"], ["--detecter", "--detector", "oodattack run --help"]),
    "option without value": (["run", "--threat"], ["--threat", "requires an argument"]),
    "command": (["rum"], ["No such command", "rum"]),
    "command near one": (["lst"], ["No such command", "Did you mean 'list'? See `oodattack --help`."]),
    "bytes": (
        given(model="mine:net", detector="energy", mean="123", std="58"),
        ["`mean` must be in [0, 1]", "(123.0,)", "Divide it by 255"],
    ),
    "mean that no detector needs": (
        given(model="mine:net", detector="mine:fine", mean="nan", std="1"),
        ["`mean` must be finite, got (nan,)"],
    ),
    "outside attack in lower case": (given(threat="lower.toml"), ["'torchattacks:pgd'", "mean 'torchattacks:PGD'?"]),
    "device absent": (given(device="cuda:7"), ["`--device` must be there", "got 'cuda:7'", "Try cpu"]),
    "device unknown": (given(device="abacus"), ["`--device` must be there", "got 'abacus'", "Try cpu"]),
    "device without numbers": (given(device="meta"), ["`--device` must be there", "got 'meta'", "Try cpu"]),
}


def tree(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def checked(out: str, err: str, words: list[str]) -> None:
    """One line with all the words, and nothing on standard output."""
    assert out == ""
    assert err.startswith("oodattack: ")
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err
    assert [word for word in words if word not in err] == [], err


@pytest.mark.parametrize(("command", "words"), BAD.values(), ids=BAD)
def test_bad_input(command, words, workplace, capsys):
    before = tree(workplace)
    code = main(command)
    out, err = capsys.readouterr()
    assert code == 2, err
    checked(out, err, words)
    assert tree(workplace) == before


def test_the_run_that_all_of_these_spoil_works(workplace, capsys):
    assert main([*given(out="run"), "--samples", "4"]) == 0, capsys.readouterr().err
    assert (workplace / "run" / "report.json").exists()


@pytest.mark.parametrize("name", ["raises", "range", "threat"])
def test_as_a_process(name, workplace):
    command, words = BAD[name]
    before = tree(workplace)
    done = subprocess.run([sys.executable, "-m", "oodattack", *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    checked(done.stdout, done.stderr, words)
    assert tree(workplace) == before


def test_the_same_message_whether_json_was_asked_for(workplace, capsys):
    assert main([*BAD["NaN scores"][0], "--json"]) == 2
    checked(*capsys.readouterr(), BAD["NaN scores"][1])


def test_a_failure_takes_away_only_what_it_made(workplace, capsys):
    (workplace / "kept").mkdir()
    assert main([*given(detector="mine:nans", out="kept/a/b")]) == 2
    assert (workplace / "kept").is_dir()
    assert list((workplace / "kept").iterdir()) == []
