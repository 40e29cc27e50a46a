"""TF32 is off while scores are computed, and what the process had set comes back."""

import pytest
import torch

from oodattack.full_precision import full_precision

CUDNN, MATMUL = torch.backends.cudnn, torch.backends.cuda.matmul
NEW = hasattr(CUDNN, "conv")


def state() -> list:
    found = [CUDNN.deterministic, CUDNN.benchmark]
    found += [part.fp32_precision for part in (CUDNN.conv, CUDNN.rnn, MATMUL)] if NEW else []
    for part in (CUDNN, MATMUL):
        try:
            found.append(part.allow_tf32)
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


@pytest.fixture
def as_before():
    new = [CUDNN.conv, CUDNN.rnn, MATMUL, torch.backends] if NEW else []
    was = [(part, "fp32_precision", part.fp32_precision) for part in new]
    was = [(CUDNN, "benchmark", CUDNN.benchmark), *((p, "allow_tf32", p.allow_tf32) for p in (CUDNN, MATMUL)), *was]
    yield
    for part, name, value in was:
        setattr(part, name, value)


@pytest.mark.parametrize("process", [lambda: None, old_words, tf32_off, *([new_words, for_everything] if NEW else [])])
def test_float32_is_float32_within_and_settings_come_back(process, as_before):
    process()
    before = state()
    with pytest.raises(KeyError), full_precision():
        assert not CUDNN.allow_tf32 and not MATMUL.allow_tf32  # and can be asked for in the old words
        assert CUDNN.deterministic and not CUDNN.benchmark
        if NEW:
            assert {part.fp32_precision for part in (CUDNN.conv, CUDNN.rnn, MATMUL)} == {"ieee"}
        raise KeyError
    assert state() == before
    with full_precision():
        pass
    assert state() == before
