import sys

import pytest
import torch

from oodattack.models import MODELS, build, preprocessing


def test_torchvision_by_name():
    net = build("torchvision:mobilenet_v3_small", channels=3, classes=7)
    assert net.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 7)


WRONG = {
    "misspelt": ("smal", 1, 6, r"Did you mean 'small'\? `name` must be one of small, .*got 'smal'\."),
    "torchvision": ("torchvision:resnet81", 3, 6, r"Did you mean 'resnet18'\? .*got 'resnet81'\."),
    "detection": ("torchvision:fasterrcnn_resnet50_fpn", 3, 6, "`torchvision:NAME` must be one of alexnet"),
    "grey": ("torchvision:resnet18", 1, 6, "`channels` must be 3 for `torchvision:resnet18`, got 1"),
    "channels": ("small", 0, 6, "`channels` must be >= 1 and `classes` >= 2, got 0 and 6"),
    "classes": ("small", 1, 1, "`channels` must be >= 1 and `classes` >= 2, got 1 and 1"),
    "module": ("no_such_module:net", 1, 6, "`no_such_module:net` must name an importable module"),
    "attribute": ("math:net", 1, 6, "`math:net` must name something in math"),
    "result": ("os:getcwd", 1, 6, "`os:getcwd` must return an nn.Module, got str"),
}


@pytest.mark.parametrize(("name", "channels", "classes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use(name, channels, classes, message):
    with pytest.raises(ValueError, match=message):
        build(name, channels=channels, classes=classes)


CODE = """
from torch import nn
def none(): return nn.Linear(2, 3)
def some(classes): return nn.Linear(2, classes)
def both(channels, classes, depth=1): return nn.Linear(channels, classes)
"""


def test_user_code_gets_the_arguments_that_it_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "user_model_code.py").write_text(CODE)
    shapes = [build(f"user_model_code:{name}", channels=4, classes=5).weight.shape for name in ("none", "some", "both")]
    sys.modules.pop("user_model_code")
    assert shapes == [(3, 2), (5, 2), (5, 4)]


def test_torchvision_keeps_a_preprocessing_for_every_network():
    from torchvision import models

    for name in models.list_models(module=models):
        found = preprocessing(f"torchvision:{name}")
        assert len(found.mean) == len(found.std) == 3
        assert 0 < found.crop <= found.size
        assert found.interpolation in ("bilinear", "bicubic")


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_preprocessing_of_torchvision():
    assert preprocessing("torchvision:resnet18") == (*IMAGENET, 256, 224, "bilinear")
    assert preprocessing("torchvision:resnet50") == (*IMAGENET, 232, 224, "bilinear")  # version 2
    assert preprocessing("torchvision:resnet50.IMAGENET1K_V1") == (*IMAGENET, 256, 224, "bilinear")
    assert preprocessing("torchvision:vit_h_14") == (*IMAGENET, 518, 518, "bicubic")


def test_the_preprocessing_is_what_torchvision_does():
    # by the record: resize the shorter side, cut the middle, scale, norm
    from torchvision import models
    from torchvision.transforms import functional as F

    picture = torch.randint(256, (3, 300, 400), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    how = preprocessing("torchvision:resnet18")
    resized = F.resize(picture, [how.size], interpolation=F.InterpolationMode(how.interpolation), antialias=True)
    assert resized.shape == (3, 256, 341)
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (how.mean, how.std))
    mine = (F.center_crop(resized, [how.crop]) / 255 - mean) / std
    torch.testing.assert_close(mine, models.ResNet18_Weights.DEFAULT.transforms()(picture))


def test_weights_behind_the_dot_change_the_preprocessing_and_not_the_network():
    with torch.device("meta"):
        first, second = (build(f"torchvision:resnet50{tag}", channels=3, classes=7) for tag in ("", ".IMAGENET1K_V1"))
    assert [p.shape for p in first.parameters()] == [p.shape for p in second.parameters()]


@pytest.mark.parametrize("name", [*MODELS, "my.module:network"])
def test_own_networks_and_user_code_have_no_preprocessing(name):
    assert preprocessing(name) is None


UNKNOWN = {
    "own": (
        "vgg14",
        r"Did you mean 'vgg13'\? `name` must be one of small, .*timm:NAME, pkg.mod:callable, got 'vgg14'\.",
    ),
    "torchvision": ("torchvision:resnet81", "got 'resnet81'"),
    "weights": (
        "torchvision:resnet50.IMAGENET1K_V3",
        r"`torchvision:resnet50.WEIGHTS` must be one of IMAGENET1K_V1, .*got 'IMAGENET1K_V3'",
    ),
}


@pytest.mark.parametrize(("name", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_preprocessing_of_something_unknown(name, message):
    with pytest.raises(ValueError, match=message):
        preprocessing(name)


@pytest.mark.parametrize("use", [preprocessing, lambda name: build(name, channels=3, classes=7)])
def test_timm_is_an_extra(use, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    with pytest.raises(
        ValueError, match=r"`timm:NAME` must have the package timm, got none. Install oodattack\[timm\]"
    ):
        use("timm:resnet18")


def test_timm_by_name():
    pytest.importorskip("timm")
    net = build("timm:resnet18", channels=1, classes=7).eval()  # other than torchvision's it takes grey images
    assert net(torch.rand(1, 1, 32, 32)).shape == (1, 7)


# floor(224 / 0.875), floor(224 / 0.95); stretched to the whole
TIMM = {
    "resnet18.tv_in1k": (*IMAGENET, 256, 224, "bilinear"),
    "resnet18.a1_in1k": (*IMAGENET, 235, 224, "bicubic"),
    "vit_base_patch16_224.augreg_in21k": ((0.5,) * 3, (0.5,) * 3, 248, 224, "bicubic"),
    "convnext_base.fb_in22k_ft_in1k_384": (*IMAGENET, (384, 384), 384, "bicubic"),
}


@pytest.mark.parametrize("name", TIMM)
def test_preprocessing_of_timm(name):
    pytest.importorskip("timm")
    assert preprocessing(f"timm:{name}") == TIMM[name]


def test_the_preprocessing_is_what_timm_does():
    timm = pytest.importorskip("timm")
    from PIL import Image
    from timm.data import create_transform, resolve_data_config
    from torchvision.transforms import functional as F

    picture = torch.randint(256, (300, 400, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(picture.numpy())
    for name in ("resnet18.a1_in1k", "convnext_base.fb_in22k_ft_in1k_384"):
        how = preprocessing(f"timm:{name}")
        resized = F.resize(picture, how.size, interpolation=F.InterpolationMode(how.interpolation))
        mine = F.normalize(F.to_tensor(F.center_crop(resized, how.crop)), how.mean, how.std)
        config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        torch.testing.assert_close(mine, create_transform(**config)(picture))


def test_a_preprocessing_of_timm_that_the_record_cannot_say(monkeypatch):
    timm = pytest.importorskip("timm")
    known = timm.get_pretrained_cfg("resnet18")
    for change in ({"crop_mode": "border"}, {"input_size": (3, 192, 96)}):
        odd = type(known)(**{**known.to_dict(), **change})
        monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name, odd=odd: odd)
        with pytest.raises(ValueError, match=r"`timm:resnet18` must take the middle square of an image, got \d+ x \d+"):
            preprocessing("timm:resnet18")


WRONG_TIMM = {
    "misspelt": (
        "timm:resnet181",
        r"`timm:NAME` must be a network of timm, got 'resnet181'. Did you mean 'resnet\d+'\?",
    ),
    "far off": ("timm:!!!", "got '!!!'. See `timm.list_models"),
    "tag": ("timm:resnet18.nonsense", "`timm:resnet18.nonsense` must build, got RuntimeError"),
    "download": ("timm:hf-hub:somebody/something", "must be a network of timm, got 'hf-hub:somebody/something'"),
}


@pytest.mark.parametrize(("name", "message"), WRONG_TIMM.values(), ids=WRONG_TIMM)
def test_wrong_use_of_timm(name, message):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        build(name, channels=3, classes=7)
