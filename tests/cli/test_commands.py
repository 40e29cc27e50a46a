"""What each command prints, and with which exit code."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import quick_threat
import torch

import oodattack
from oodattack import job
from oodattack.cli import cli, main
from oodattack.report import read_report
from oodattack.threat import read_threat

KINDS = ["detectors", "threats", "attacks", "datasets", "objectives", "recipes", "models", "protocols"]
CODE = """
import torch
from torch import nn
print("hello from the module")

def fine(x):
    print("hello from the score")
    return x.flatten(1).mean(1)

class Made(nn.Module):
    def __init__(self, power=2.0):
        super().__init__()
        self.power = power
        self.eval()
    def forward(self, x): return (x ** self.power).flatten(1).mean(1)

def net(channels, classes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()
"""
QUICK = quick_threat.QUICK.replace("queries = 3", "queries = 4")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "id.npz", images=draw.random((8, 1, 8, 8)) / 2, labels=np.arange(8) % 2)
    np.savez(tmp_path / "ood.npz", images=draw.random((6, 1, 8, 8)))
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "quick.toml").write_text(QUICK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("OODATTACK_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    sys.modules.pop("mine", None)


RUN = [
    "run",
    "--detector",
    "mine:fine",
    "--threat",
    "quick.toml",
    "--id",
    "npz:id.npz",
    "--ood",
    "npz:ood.npz",
    "--out",
    "out",
]


# --- list ---


@pytest.mark.parametrize("kind", KINDS)
def test_list_as_json(kind, capsys):
    assert main(["list", kind, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = json.loads(out)
    assert len(rows) >= 1
    for row in rows:
        assert row["name"] and row["source"]
        assert all(isinstance(value, str) for value in row.values())
    assert len({row["name"] for row in rows}) == len(rows)


NAMES = {
    "detectors": {"msp", "max-logit", "energy", "odin", "mahalanobis", "gaia-z", "gaia-a", "si-z", "si-a"},
    "threats": {"liang-logit", "linf-8-255", "flagship", "sanity-full-box", "sanity-random"},
    "attacks": {"pgd", "apgd", "adamax", "random-search"},
    "datasets": {"digits", "digits-6-9", "far-mix", "noise", "photos", "spirals", "checkerboards"},
    "objectives": {"ce", "gq", "energy", "greg", "greg+", "oe"},
    "recipes": {"ce", "greg+", "gq-cifar", "oe-tune-cifar", "jem-cifar"},
    "models": {"small"},
    "protocols": {"keep", "grey-to-rgb", "resize-256-crop-224", "gq-cifar"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_list_names_what_the_contract_names(kind, capsys):
    main(["list", kind, "--json"])
    names = {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert names >= NAMES[kind]
    ours = [name for name in names if not name.startswith("torchattacks:")]
    assert all(name == name.lower() and "_" not in name for name in ours)


@pytest.mark.parametrize("kind", KINDS)
def test_list_as_a_table(kind, capsys):
    assert main(["list", kind]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name in NAMES[kind]:
        assert name in out


def test_the_list_of_threats_says_what_each_of_them_is(capsys):
    assert main(["list", "threats", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    short = {name: [row[key] for key in ("limits", "attack", "queries")] for name, row in rows.items()}
    assert short["linf-8-255"] == ["linf 8/255", "apgd", "50"]
    assert short["atom-comp"] == ["linf 8/255, after corruptions-5", "pgd", "42"]
    assert short["semantic-stadv"] == ["linf 1, limit 0.025", "stadv", "102"]
    assert short["ood-aa"] == ["linf 8/255", "pgd-decay, pgd, lbfgs, fmn, square", "500"]
    assert short["patch-60"][0] == "patch 60" and short["corruptions-3"][0] == "linf 1, severity 3"
    assert short["flagship"][2] == str(sum(m.queries for m in read_threat("flagship").members))
    sweep = read_threat(rows["fort-linf"]["file"])
    assert short["fort-linf"][0] == f"linf {sweep.members[0].eps:g} to {sweep.members[-1].eps:g}"
    assert short["fort-linf"][2] == str(sweep.members[0].queries)
    for row in rows.values():
        assert read_threat(row["file"]) == read_threat(row["name"])


# --- run ---


def test_run_prints_tables_and_writes_a_report(workplace, capsys):
    assert main(RUN) == 0
    out, _ = capsys.readouterr()
    assert "mine:fine" in out
    assert "quick" in out
    assert "out/report.json" in out
    report = read_report(workplace / "out" / "report.json")
    (result,) = report.results
    assert (result.detector, result.threat, result.ood) == ("mine:fine", "quick", "npz:ood.npz")
    assert (result.clean.n_id, result.clean.n_ood) == (8, 6)
    sheets = list((workplace / "out" / "sheets").rglob("*.png"))
    assert [str(p.relative_to(workplace / "out" / "sheets")) for p in sheets] == ["npz~ood.npz/quick/mine~fine.png"]


def test_json_prints_exactly_the_report(workplace, capsys):
    assert main([*RUN, "--json"]) == 0
    out, err = capsys.readouterr()
    assert out == (workplace / "out" / "report.json").read_text(encoding="utf-8")  # whatever the user's code prints
    assert "hello from the module" in err
    assert "hello from the score" in err


def test_json_as_a_process(workplace):
    command = [sys.executable, "-m", "oodattack", *RUN, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout)["results"][0]["detector"] == "mine:fine"
    assert done.stdout == (workplace / "out" / "report.json").read_text(encoding="utf-8")


LOUD = """
import ctypes, os, sys
sys.__stdout__.write("from Python")
os.system("echo from another process")
ctypes.CDLL(None).printf(b"from C")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such library")
def test_json_is_alone_on_standard_output_whoever_writes(workplace):
    (workplace / "mine.py").write_text(CODE + LOUD)
    command = [sys.executable, "-m", "oodattack", *RUN, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == (workplace / "out" / "report.json").read_text(encoding="utf-8")
    for words in ("from Python", "from another process", "from C"):
        assert words in done.stderr


def test_run_takes_samples_seed_and_several_detectors(workplace, capsys):
    more = ["--samples", "3", "--seed", "5", "--batch-size", "2", "--detector", "mine:Made", "--detector", "mine:fine"]
    assert main([*RUN, *more, "--json"]) == 0
    report = read_report(workplace / "out" / "report.json")
    assert [r.detector for r in report.results] == ["mine:fine", "mine:Made"]  # each once
    assert {(r.clean.n_id, r.clean.n_ood) for r in report.results} == {(3, 3)}
    assert (report.spec.seed, report.spec.samples, report.spec.batch_size) == (5, 3, 2)
    assert (report.spec.id.name, report.spec.id.n) == ("npz:id.npz", 3)


def test_a_group_stands_for_its_sets(workplace, capsys):
    words = ["--detector", "mine:fine", "--threat", "quick.toml", "--ood", "near", "--samples", "4", "--out", "out"]
    assert main(["run", *words]) == 0, capsys.readouterr().err
    assert [r.ood for r in read_report(Path("out") / "report.json").results] == ["digits-6-9"]


def test_the_same_command_gives_the_same_numbers(workplace, capsys):
    results = []
    for folder in ("one", "two"):
        assert main([*RUN[:-1], folder, "--json"]) == 0
        fields = json.loads(capsys.readouterr().out)
        fields["results"][0].pop("seconds")
        results.append((fields["results"], fields["spec"]["id"], fields["spec"]["threats"]))
    assert results[0] == results[1]


def test_table_detectors_run_on_a_network_of_the_user(workplace, capsys):
    wanted = [word for name in ("energy", "mahalanobis") for word in ("--detector", name)]
    assert main([*RUN[:1], *wanted, *RUN[3:], "--model", "mine:net", "--fit", "npz:id.npz", "--json"]) == 0
    report = read_report(workplace / "out" / "report.json")
    assert [(r.detector, r.network) for r in report.results] == [("energy", "model"), ("mahalanobis", "model")]
    assert len(report.spec.networks["model"]) == 64


def test_start_images_go_without_an_ood_set(workplace, capsys):
    (workplace / "noise.toml").write_text(QUICK.replace('start = "ood"', 'start = "noise"'))
    command = [word if word != "quick.toml" else "noise.toml" for word in RUN]
    at = command.index("--ood")
    assert main([*command[:at], *command[at + 2 :], "--json"]) == 0, capsys.readouterr().err
    assert read_report(workplace / "out" / "report.json").results[0].ood == "noise"


def test_train_then_run_on_a_cached_network(workplace, capsys):
    """The only test here that trains: the plain network, for some seconds."""
    assert main(["train", "--objective", "ce", "--out", "ce.safetensors"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("ce.safetensors: ce, accuracy 0.9")
    cached = list((workplace / "cache").rglob("*.safetensors"))
    assert len(cached) == 1
    before = cached[0].stat().st_mtime_ns
    command = [
        "run",
        "--detector",
        "energy",
        "--threat",
        "quick.toml",
        "--ood",
        "noise",
        "--samples",
        "4",
        "--out",
        "out",
    ]
    assert main([*command, "--json"]) == 0
    report = read_report(workplace / "out" / "report.json")
    assert (report.results[0].detector, report.results[0].network) == ("energy", "ce")
    assert report.spec.id_accuracy["ce"] > 0.95
    assert cached[0].stat().st_mtime_ns == before  # not trained again


# --- exit codes ---


def test_interrupted(workplace, capsys, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run", interrupt)
    assert main(RUN) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.split() == ["oodattack:", "interrupted"]


def test_a_run_interrupted_before_it_has_a_plan_leaves_no_empty_folder(workplace, capsys, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("oodattack.job.running.prepare", interrupt)
    assert main(RUN) == 130
    assert capsys.readouterr().err.split() == ["oodattack:", "interrupted"]
    assert not (workplace / "out").exists()


def test_bugs_of_ours_are_not_dressed_up_and_no_regression(workplace, capsys, monkeypatch):
    def bug(*_args, **_options):
        raise RuntimeError("attack left the ball. This is a bug.")

    monkeypatch.setattr(job, "run", bug)
    assert main(RUN) == 70
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("Traceback") and "RuntimeError: attack left the ball. This is a bug." in err
    assert err.splitlines()[-1].startswith("oodattack: this is a bug of oodattack. Please report it")


def test_a_terminal_that_does_not_know_its_width_shows_something(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    assert main(["list", "objectives"]) == 0
    assert "greg+" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
@pytest.mark.parametrize("words", ["--version", "list threats"])
def test_output_that_cannot_be_written_is_no_regression(words):
    command = [sys.executable, "-m", "oodattack", *words.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
        assert done.returncode == 2
        assert done.stderr.startswith("oodattack: output: must be readable and writable, got No space left on device.")
        assert done.stderr.count("\n") == 1
        assert subprocess.run(command, stdout=full, stderr=full, timeout=120).returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no such shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_stream_that_is_closed_from_the_start_is_no_regression(closed):
    script = f'exec "$0" -m oodattack list nonsense {closed}'
    assert subprocess.run(["sh", "-c", script, sys.executable], capture_output=True, timeout=120).returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
@pytest.mark.parametrize("words", ["--version", "list threats"])  # click and rich print in ways of their own
def test_a_reader_who_leaves_is_no_fault_of_user_code(words):
    command = [sys.executable, "-m", "oodattack", *words.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        started.stdout.close()
        assert (started.stderr.read(), started.wait(120)) == ("", 128 + 13)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split()[-1] == oodattack.__version__


def test_no_command_shows_help(capsys):
    assert main([]) in (0, 2)  # as click's version has it
    assert "Commands:" in "".join(capsys.readouterr())


# --- help ---


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_help_shows_an_example_that_parses(name, capsys):
    assert main([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    example = " ".join(out.split("Example: ")[1].split()).split(" ")
    assert example[:2] == ["oodattack", name]
    cli.commands[name].make_context(name, example[2:])  # raises if an option does not exist


def test_top_help_names_every_command(capsys):
    assert main(["-h"]) == 0
    out, _ = capsys.readouterr()
    for name in cli.commands:
        assert name in out


def test_a_network_of_the_user_with_weights_and_normalisation(tmp_path, capsys, monkeypatch):
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=4).eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "net.pth")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "id.npz", images=images, labels=np.arange(12) % 4)
    np.savez(tmp_path / "ood.npz", images=255 - images[:4])
    monkeypatch.chdir(tmp_path)
    asked = (
        "run --model torchvision:resnet18 --weights net.pth --mean 0.5,0.4,0.3 --std 0.2,0.2,0.2 --detector energy "
        "--detector mahalanobis --fit npz:id.npz --id npz:id.npz --ood npz:ood.npz --threat linf-8-255-random "
        "--out r --json"
    )
    assert main(asked.split()) == 0
    report = json.loads(capsys.readouterr().out)
    assert {(r["detector"], r["network"]) for r in report["results"]} == {("energy", "model"), ("mahalanobis", "model")}
    # the same score by hand: the mean and std reached the network
    x = torch.from_numpy(images[:2]).permute(0, 3, 1, 2) / 255
    shift, scale = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1), torch.tensor([0.2, 0.2, 0.2]).view(1, 3, 1, 1)
    from oodattack.job import Job
    from oodattack.job.images import at_most
    from oodattack.job.networks import user_network

    job = Job(
        id="npz:id.npz", model="torchvision:resnet18", weights=(Path("net.pth"),), mean=(0.5, 0.4, 0.3), std=(0.2,) * 3
    )
    net = user_network(job, Path("net.pth"), at_most("npz:id.npz", 2, seed=0), torch.device("cpu")).net
    with torch.no_grad():
        torch.testing.assert_close(net(x), network((x - shift) / scale))


def test_mean_that_is_no_number_is_refused(capsys):
    assert main("run --mean a,b".split()) == 2
    assert "must be numbers with commas between" in capsys.readouterr().err
