"""Weights from files: read without running anybody's code, and put into a network with an error that can be read."""

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from oodattack.lookup import summary

NESTED = ("state_dict", "model", "net")  # where checkpoints keep the weights beside epoch, optimiser and the like
PREFIX = "module."  # of every key, from torch's DataParallel
HEAD = re.compile(r"(^|\.)(fc\d*|heads?|(last_)?linear|classifier|logits)(\.|$)")
NAMED_KEYS = 3  # keys of each kind that an error names


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from a file of `torch.save` that holds tensors and plain values only.

    A dict within the file under one of `NESTED` is taken in place of what lies around it, and `PREFIX` is dropped.

    Args:
        path: of the file.

    Returns:
        Names of parameters and buffers -> tensors on the CPU.

    Raises:
        ValueError: the file is missing, would run code, or holds anything else.
    """
    found = read_file(path)
    while isinstance(found, Mapping) and (key := next((k for k in NESTED if isinstance(found.get(k), Mapping)), "")):
        found = found[key]
    if not isinstance(found, Mapping) or not found:
        raise not_weights(path, type(found).__name__)
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()):
        raise not_weights(path, "something else in it")
    prefix = PREFIX if all(key.startswith(PREFIX) for key in found) else ""
    return {key.removeprefix(prefix): value for key, value in found.items()}


def not_weights(path: Path, got: str) -> ValueError:
    """The error for a file that could be read but holds something else."""
    return ValueError(f"{path}: weights must be a state dict of tensors, got {got}. Save `state_dict()`.")


def read_file(path: Path) -> object:
    """Whatever a file holds, if it can be read without running code.

    Raises:
        ValueError: the file is missing or cannot.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: weights must exist, but they do not. Check the path.") from None
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path}: weights must be .safetensors or plain tensors, got a pickle that would run code, or no "
            "weights at all. Save `state_dict()`."
        ) from None
    except Exception as error:  # torch.load raises whatever a broken file makes it raise
        raise ValueError(
            f"{path}: weights must be .safetensors or plain tensors, got {summary(error)}. Save `state_dict()`."
        ) from None


def load_weights(network: nn.Module, state: Mapping[str, Tensor], *, where: str | Path) -> None:
    """Copy weights into a network, all or nothing.

    The counters of batch norms may be missing, as they are in files of old versions of torch; nothing depends on them.

    Args:
        network: changed in place; its device, dtype and mode stay.
        state: names of parameters and buffers -> tensors.
        where: the weights come from, for the error.

    Raises:
        ValueError: keys are missing, unexpected, or of another shape; the network is then left as it was.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    reshaped = [
        f"{key}: {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    if found := "; ".join(some(what, keys) for what, keys in faults if keys):
        raise ValueError(f"{where}: weights must fit the network, got {found}. Check its name and number of classes.")
    network.load_state_dict(state, strict=False)


def some(what: str, keys: Sequence[str]) -> str:
    """A count of keys with the first few of them."""
    rest = f" and {len(keys) - NAMED_KEYS} more" if len(keys) > NAMED_KEYS else ""
    return f"{len(keys)} {what} ({', '.join(keys[:NAMED_KEYS])}{rest})"


def classes_of(state: Mapping[str, Tensor]) -> int:
    """Number of classes that a state dict was made for: rows of the matrix of its head.

    The head is the outermost matrix with a name like fc, head, linear or classifier, the last one where there are
    several; else such a 1 x 1 convolution; else the outermost, last matrix of any name.

    Returns:
        At least 2; 1000 where there is no matrix at all.
    """
    named = {key: value for key, value in state.items() if HEAD.search(key)}
    for heads in (
        [key for key, value in named.items() if value.ndim == 2],
        [key for key, value in named.items() if value.ndim == 4 and value.shape[2:] == (1, 1)],
        [key for key, value in state.items() if value.ndim == 2],
    ):
        if heads:
            outermost = min(key.count(".") for key in heads)
            head = [key for key in heads if key.count(".") == outermost][-1]
            return max(2, state[head].shape[0])
    return 1000
