"""TF32 is off while scores are computed, and what the process had set comes back."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import oodattack as oa
from oodattack.full_precision import full_precision
from oodattack.job import running
from oodattack.runs.ranks import Ranks
from oodattack.runs.rows import scores_of

CUDNN, MATMUL = torch.backends.cudnn, torch.backends.cuda.matmul
NEW = hasattr(CUDNN, "conv")
ONEDNN = torch.backends.mkldnn
PARTS = [CUDNN.conv, CUDNN.rnn, MATMUL, ONEDNN.conv, ONEDNN.rnn, ONEDNN.matmul] if NEW else []


def state() -> list:
    found = [CUDNN.deterministic, CUDNN.benchmark, *[part.fp32_precision for part in PARTS]]
    for said in (lambda: CUDNN.allow_tf32, lambda: MATMUL.allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(said())
        except RuntimeError:
            found.append("said in new words")
    return found


def old_words():
    CUDNN.allow_tf32, MATMUL.allow_tf32, CUDNN.benchmark = True, True, True


def tf32_off():
    CUDNN.allow_tf32 = False


def new_words():
    CUDNN.conv.fp32_precision = MATMUL.fp32_precision = "tf32"


def for_everything():
    torch.backends.fp32_precision = "tf32"


def medium():
    torch.set_float32_matmul_precision("medium")


def high():
    torch.set_float32_matmul_precision("high")


def one_operation():
    ONEDNN.matmul.fp32_precision = CUDNN.conv.fp32_precision = "ieee"


@pytest.fixture
def as_before():
    new = [*PARTS, torch.backends] if NEW else []
    was = [(part, "fp32_precision", part.fp32_precision) for part in new]
    was = [(CUDNN, "benchmark", CUDNN.benchmark), *((p, "allow_tf32", p.allow_tf32) for p in (CUDNN, MATMUL)), *was]
    word = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(word)
    for part, name, value in was:
        setattr(part, name, value)


PROCESSES = [lambda: None, old_words, tf32_off, medium, high]
PROCESSES += [new_words, for_everything, one_operation] if NEW else []


@pytest.mark.parametrize("process", PROCESSES)
def test_float32_is_float32_within_and_settings_come_back(process, as_before):
    process()
    before = state()
    with pytest.raises(KeyError), full_precision():
        assert not CUDNN.allow_tf32 and not MATMUL.allow_tf32  # and can be asked for in the old words
        assert CUDNN.deterministic and not CUDNN.benchmark
        assert torch.get_float32_matmul_precision() == "highest"
        assert {part.fp32_precision for part in PARTS} <= {"ieee"}
        raise KeyError
    assert state() == before
    with full_precision():
        pass
    assert state() == before


@pytest.mark.skipif(not NEW, reason="since PyTorch 2.9")
def test_what_followed_another_setting_goes_on_following_it(as_before):
    def told(*, within):
        for part in PARTS:
            part.fp32_precision = "none"
        torch.backends.fp32_precision = "tf32"
        if within:
            with full_precision():
                pass
        torch.backends.fp32_precision = "ieee"
        return [part.fp32_precision for part in PARTS]

    assert told(within=True) == told(within=False)


class Watching(nn.Module):
    """Brightness that writes down what is set while it is asked."""

    def __init__(self):
        super().__init__()
        self.seen = set()
        self.eval()

    def forward(self, x):
        self.seen.add((CUDNN.deterministic, CUDNN.allow_tf32))
        return x.flatten(1).mean(1)


def test_everything_that_is_scored_is_scored_so():
    detector, x = Watching(), torch.rand(4, 1, 4, 4)
    oa.evaluate(detector, id=x / 2, ood={"x": 1 - x / 2}, threats=["linf-8-255-pgd-20"], seed=0)
    assert detector.seen == {(True, False)}
    detector.seen.clear()
    scores_of(detector, x, 2, torch.device("cpu"))
    assert detector.seen == {(True, False)}


def test_a_run_is_prepared_so(monkeypatch):
    seen = []

    def prepare(*_):
        seen.append((CUDNN.deterministic, CUDNN.allow_tf32))
        raise KeyError("enough")

    monkeypatch.setattr(running, "prepare", prepare)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    asked = SimpleNamespace(ranks=Ranks(), job=None, threats=[])
    with pytest.raises(KeyError, match="enough"):
        running.run_in(Path(), asked, None, None)
    assert seen == [(True, False)]
