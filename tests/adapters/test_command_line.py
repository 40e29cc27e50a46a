"""Other libraries' detectors and networks by name, from the command line."""

import json
import sys

import numpy as np
import pytest
import quick_threat
import torch
from safetensors.torch import save_file

from oodattack.cli import main

CODE = """
import torch
from pytorch_ood.detector import KNN
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
NET = nn.Sequential(nn.Conv2d(1, 6, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(384, 8)).eval()
X = torch.rand(60, 1, 32, 32)


def knn():
    return KNN(NET, k=5).to("cpu").fit(DataLoader(TensorDataset(X, torch.arange(60) % 6), batch_size=30))


fitted = knn()


def training():
    return KNN(nn.Sequential(NET, nn.BatchNorm1d(8)))
"""
THREAT = quick_threat.QUICK.replace("queries = 3", "queries = 8")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "borrowed.py").write_text(CODE)
    (tmp_path / "few.toml").write_text(THREAT)
    generator = np.random.default_rng(0)
    for name, shade in (("id", 255), ("ood", 120)):
        images = generator.integers(0, shade, (6, 3, 32, 32), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images)
    sys.modules.pop("borrowed", None)
    yield tmp_path
    sys.modules.pop("borrowed", None)


def test_a_pytorch_ood_detector_and_a_function_that_makes_one(workplace, capsys):
    words = ["--detector", "borrowed:knn", "--detector", "borrowed:fitted", "--threat", "few.toml"]
    assert main(["run", *words, "--ood", "far-mix", "--samples", "6", "--out", "run", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [r["detector"] for r in report["results"]] == ["borrowed:knn", "borrowed:fitted"]
    for result in report["results"]:
        followed = "own score in torch, sloped by the mean of the k nearest"
        assert (result["surrogate"], result["indicators"]["white_box"]) == (followed, True)
        assert result["attacked"]["auroc"] < result["clean"]["auroc"]
    assert set(report["spec"]["networks"].values()) != {""}
    assert main(["verify", "run"]) == 0


def test_one_in_training_mode_is_exit_code_2(workplace, capsys):
    words = ["--detector", "borrowed:training", "--threat", "few.toml", "--ood", "far-mix", "--samples", "6"]
    assert main(["run", *words, "--out", "run"]) == 2
    assert "must be in eval mode, got training mode in " in capsys.readouterr().err


def test_networks_by_name_and_weights_from_a_file(workplace, capsys):
    import timm
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(0)
    torch.save(mobilenet_v3_small(num_classes=10).state_dict(), workplace / "torchvision.pt")
    small = timm.create_model("mobilenetv3_small_050", num_classes=5)
    save_file({name: t.contiguous() for name, t in small.state_dict().items()}, workplace / "timm.safetensors")
    for model, weights in (
        ("torchvision:mobilenet_v3_small", "torchvision.pt"),
        ("timm:mobilenetv3_small_050", "timm.safetensors"),
    ):
        words = ["--model", model, "--weights", weights, "--id", "npz:id.npz", "--ood", "npz:ood.npz"]
        numbers = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
        detectors = ["--detector", "energy", "--detector", "msp", "--threat", "few.toml"]
        assert main(["run", *words, *numbers, *detectors, "--out", weights + "-run", "--json"]) == 0
        results = json.loads(capsys.readouterr().out)["results"]
        assert [r["detector"] for r in results] == ["energy", "msp"]
        assert all(r["indicators"]["white_box"] and not r["indicators"]["zero_gradient_share"] for r in results)
    assert main(["run", *words[:3], "torchvision.pt", *words[4:], *detectors, "--out", "run"]) == 2
    assert "Traceback" not in capsys.readouterr().err
