import pickle
from argparse import Namespace
from collections import OrderedDict

import pytest
import torch
from torch import nn

from oodattack.lookup import summary
from oodattack.models import MODELS, build
from oodattack.models.small import SmallResNet
from oodattack.models.weights import classes_of, load_weights, read_weights

STATE = OrderedDict(a=torch.tensor([1.0, 2.0]), b=torch.tensor([[3.0]]))
WRAPPED = OrderedDict((f"module.{key}", value) for key, value in STATE.items())


def small(seed=0, classes=3):
    torch.manual_seed(seed)
    return SmallResNet(1, classes, width=2)


class Touch:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


READABLE = {
    "ordered dict": STATE,
    "dict": dict(STATE),
    "parallel": WRAPPED,
    "state_dict": {"state_dict": STATE, "epoch": 3, "best": 0.9},
    "model": {"model": STATE, "optimizer": {"lr": 0.1}},
    "net": {"net": WRAPPED, "acc": 93.0, "epoch": 199},
    "nested twice": {"model": {"state_dict": WRAPPED}, "args": ["--lr", "1"]},
}


@pytest.mark.parametrize("saved", READABLE.values(), ids=READABLE)
def test_forms_of_a_checkpoint(saved, tmp_path):
    torch.save(saved, tmp_path / "net.pth")
    found = read_weights(tmp_path / "net.pth")
    assert list(found) == ["a", "b"]
    assert found["a"].tolist() == [1.0, 2.0] and found["b"].tolist() == [[3.0]]


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file(dict(WRAPPED), tmp_path / "net.safetensors")
    assert {key: value.tolist() for key, value in read_weights(tmp_path / "net.safetensors").items()} == {
        "a": [1.0, 2.0],
        "b": [[3.0]],
    }


def test_a_parameter_called_like_a_nest_or_a_prefix_stays(tmp_path):
    # `model` is a tensor here, and not every key begins with `module.`
    saved = {"model": torch.ones(1), "module.a": torch.ones(2)}
    torch.save(saved, tmp_path / "net.pth")
    assert read_weights(tmp_path / "net.pth").keys() == saved.keys()


@pytest.mark.parametrize("where", ["beside the weights", "as a weight", "alone", "plain pickle"])
def test_a_file_that_would_run_code_is_refused_and_does_not(where, tmp_path):
    evil, path = Touch(tmp_path / "ran"), tmp_path / "net.pth"
    if where == "plain pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(
            {"beside the weights": {"state_dict": STATE, "x": evil}, "as a weight": {"a": evil}}.get(where, evil), path
        )
    with pytest.raises(
        ValueError, match=r"net.pth: weights must be .safetensors or plain tensors, got .*Save `state_dict"
    ):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


def test_the_trap_would_work(tmp_path):
    # the test before could pass because its trap is none
    pickle.loads(pickle.dumps(Touch(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


REFUSED = {
    "whole network": (nn.Linear(2, 2), r"plain tensors, got a pickle that would run code, or no weights at all. Save"),
    "arguments": (
        {"state_dict": dict(STATE), "args": Namespace(lr=1)},
        r"plain tensors, got a pickle that would run code, or no weights at all. Save",
    ),
    "list": ([torch.ones(1)], "must be a state dict of tensors, got list. Save"),
    "tensor": (torch.ones(1), "must be a state dict of tensors, got Tensor"),
    "empty": ({}, "must be a state dict of tensors, got dict"),
    "numbers": ({"a": 1.0}, "must be a state dict of tensors, got something else in it"),
    "keys": ({1: torch.ones(1)}, "must be a state dict of tensors, got something else in it"),
    "nested elsewhere": ({"weights": dict(STATE)}, "must be a state dict of tensors, got something else in it"),
}


@pytest.mark.parametrize(("saved", "message"), REFUSED.values(), ids=REFUSED)
def test_files_without_weights(saved, message, tmp_path):
    torch.save(saved, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=f"net.pt: weights {'.*' if 'plain' in message else ''}{message}"):
        read_weights(tmp_path / "net.pt")


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "folder.pt").mkdir()
    for name in ("text.safetensors", "text.pt", "folder.pt"):
        with pytest.raises(ValueError, match=f"{name}: weights must be .safetensors or plain tensors, got") as refused:
            read_weights(tmp_path / name)
        assert str(refused.value).isprintable()
    with pytest.raises(ValueError, match=r"nowhere.pt: weights must exist, but they do not. Check the path"):
        read_weights(tmp_path / "nowhere.pt")


def test_what_steers_a_terminal_is_left_out_of_a_summary():
    error = OSError("\x1b[1;31mno\x1b[0m such\nfile\x07 \x1b]0;a\x9b.")
    assert summary(error) == "OSError: no such file ]0;a"


def test_loaded_weights_are_those_of_the_file(tmp_path):
    source, target, x = small(0), small(1), torch.rand(2, 1, 16, 16)
    source(x)  # moves the running means
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "net.pth")
    before = target.eval()(x)
    load_weights(target, read_weights(tmp_path / "net.pth"), where="net.pth")
    assert not torch.equal(before, target(x))
    assert torch.equal(target(x), source.eval()(x))
    assert not target.training  # the mode stays


def test_loaded_weights_take_the_dtype_of_the_network():
    target = small(1).double()
    load_weights(target, small(0).state_dict(), where="here")
    assert target.head.weight.dtype == torch.float64
    assert torch.equal(target.head.weight.float(), small(0).head.weight)


def test_counters_of_norms_may_be_missing():
    state = {key: value for key, value in small(0).state_dict().items() if not key.endswith("num_batches_tracked")}
    target = small(1)
    load_weights(target, state, where="here")
    assert torch.equal(target.stem[0].weight, small(0).stem[0].weight)


def without(*keys):
    return {key: value for key, value in small(1).state_dict().items() if key not in keys}


MISFITS = {
    "missing": (without("head.bias", "stem.1.weight"), r"got 2 missing \(stem.1.weight, head.bias\)\. Check its name"),
    "running mean": (without("stem.1.running_mean"), r"got 1 missing \(stem.1.running_mean\)\."),
    "unexpected": (without() | {"fc.weight": torch.ones(1)}, r"got 1 unexpected \(fc.weight\)\."),
    "shape": (
        without() | {"head.weight": torch.ones(10, 8)},
        r"got 1 of another shape \(head.weight: \(10, 8\) for \(3, 8\)\)\. Check .* number of classes",
    ),
    "all": (
        without("head.bias") | {"fc.bias": torch.ones(3), "head.weight": torch.ones(3)},
        r"got 1 missing \(head.bias\); 1 unexpected \(fc.bias\); 1 of another shape \(head.weight: \(3,\) for",
    ),
    "many": (
        {f"x{i}": torch.ones(1) for i in range(50)},
        # 1 + 3 * 2 + 2 convolutions; as many norms, 4 numbers each; the head's 2: 9 + 36 + 2
        r"got 47 missing \(stem.0.weight, stem.1.weight, stem.1.bias and 44 more\); 50 unexpected \(x0, x1, x2 and 47",
    ),
}


@pytest.mark.parametrize(("state", "message"), MISFITS.values(), ids=MISFITS)
def test_weights_that_do_not_fit(state, message):
    target = small(0)
    with pytest.raises(ValueError, match=rf"^net.pth: weights must fit the network, {message}") as caught:
        load_weights(target, state, where="net.pth")
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    own = small(0).state_dict()
    assert all(torch.equal(value, own[key]) for key, value in target.state_dict().items())  # nothing was loaded


def matrix(rows, columns=4):
    return torch.empty(rows, columns, device="meta")


HEADS = {
    "fc": ({"conv.weight": torch.empty(8, 3, 3, 3), "fc.weight": matrix(7), "fc.bias": torch.empty(7)}, 7),
    "two linear maps": ({"fc1.weight": matrix(50), "fc2.weight": matrix(10)}, 10),
    "sequential": ({"classifier.0.weight": matrix(512), "classifier.6.weight": matrix(20)}, 20),
    "deeper maps": ({"head.fc.weight": matrix(7), "layers.0.blocks.0.mlp.fc2.weight": matrix(96)}, 7),
    "name that contains head": ({"classifier.weight": matrix(7), "conv_head.weight": matrix(1280)}, 7),
    "1 x 1 convolution": (
        {"features.0.weight": torch.empty(8, 3, 1, 1), "classifier.1.weight": torch.empty(7, 4, 1, 1)},
        7,
    ),
    "other names": ({"0.weight": torch.empty(8, 3, 3, 3), "4.weight": matrix(100), "6.weight": matrix(10)}, 10),
    "one logit": ({"fc.weight": matrix(1)}, 2),
    "no matrix": ({"conv.weight": torch.empty(8, 3, 3, 3)}, 1000),
    "nothing": ({}, 1000),
}


@pytest.mark.parametrize(("state", "classes"), HEADS.values(), ids=HEADS)
def test_number_of_classes(state, classes):
    assert classes_of(state) == classes


LIBRARY = ["resnet18", "vgg11", "squeezenet1_0", "vit_b_16", "swin_t", "densenet121", "googlenet", "mobilenet_v3_small"]


@pytest.mark.parametrize("name", [*MODELS, *(f"torchvision:{name}" for name in LIBRARY)])
def test_number_of_classes_of_real_networks(name):
    with torch.device("meta"):
        state = build(name, channels=3, classes=7).state_dict()
    assert classes_of(state) == 7
    assert classes_of(dict(sorted(state.items()))) == 7  # the order in which safetensors keeps them
