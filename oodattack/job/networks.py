"""The networks of a job by name: those of the recipes on digits, or the user's own with weights from a file."""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack import data, models
from oodattack.data import Images
from oodattack.data.auxiliary import auxiliary
from oodattack.detector import Classifier
from oodattack.evaluation import Progress
from oodattack.job.ask import Job
from oodattack.lookup import summary, unknown
from oodattack.train import RECIPES, TrainingSet, trained

AUXILIARY = 2400  # outliers that the default networks train with


class Network(NamedTuple):
    """A classifier in eval mode and its accuracy on held-out ID images, where known."""

    net: Classifier
    accuracy: float | None


def load_networks(names: Sequence[str], job: Job, id_images: Images, progress: Progress | None) -> dict[str, Network]:
    """Networks by name: those of the recipes on digits, or the user's own."""
    device = torch.device(job.device)
    if not names:
        return {}
    if job.model is not None:
        files = dict(zip(model_names(job), job.weights or (None,), strict=True))
        wanted = {name: files[name] for name in files if name in names}
        return {name: Network(user_network(job, file, id_images).to(device), None) for name, file in wanted.items()}
    training, held_out = default_data()
    found = {}
    for name in dict.fromkeys(names):
        done = trained(name, training, held_out, seed=0, cache=cache_folder(), progress=_training(progress))
        found[name] = Network(Classifier(done.network).to(device), done.accuracy)
    return found


def model_names(job: Job) -> list[str]:
    """What the networks of --model are called: "model", or "model1", "model2", ... with several --weights."""
    n = len(job.weights)
    return [f"model{i + 1}" for i in range(n)] if n > 1 else ["model"]


def default_data() -> tuple[TrainingSet, tuple[Tensor, Tensor]]:
    """Digits 0-5 and auxiliary outliers to train on; held-out digits with labels to measure accuracy on."""
    train = data.load("digits", part="train", seed=0)
    parts = [data.load("digits", part=part, seed=0) for part in ("test", "reference")]
    assert train.y is not None
    held_out = torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts if p.y is not None])
    return TrainingSet(train.x, train.y, auxiliary(AUXILIARY, train=train, seed=0)), held_out


def train(objective: str, *, seed: int, out: Path, progress: Progress | None = None) -> float:
    """Train the small network on digits and write its weights; returns its accuracy on held-out digits.

    Raises:
        ValueError: an unknown objective, or a file that cannot be written.
    """
    from safetensors.torch import save_file

    if out.suffix != ".safetensors":
        raise ValueError(f"`--out` must end in .safetensors, got {str(out)!r}. Rename it.")
    if objective not in RECIPES:
        raise unknown("--objective", objective, list(RECIPES))
    done = trained(objective, *default_data(), seed=seed, cache=cache_folder(), progress=_training(progress))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_file(done.network.state_dict(), out)
    except OSError as error:
        raise ValueError(f"`--out` must be writable, got {str(out)!r}: {error.strerror}. Choose another.") from None
    return done.accuracy


def _training(progress: Progress | None) -> Progress | None:
    return None if progress is None else lambda what, done, total: progress(f"training {what}", done, total)


def cache_folder() -> Path:
    """Where trained networks are kept: OODATTACK_CACHE, or the user's cache directory."""
    if chosen := os.environ.get("OODATTACK_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("oodattack")


def user_network(job: Job, weights: Path | None, id_images: Images) -> Classifier:
    """The network of --model with the weights of a file, in the mode that its maker left it in.

    Raises:
        ValueError: weights that cannot be read or do not fit.
    """
    assert job.model is not None
    state = None if weights is None else read_weights(weights)
    try:
        network = models.build(job.model, channels=id_images.x.shape[1], classes=classes_of(state or {}))
    except ValueError:
        raise
    except Exception as error:  # whatever the user's code does
        raise ValueError(f"`--model` {job.model!r} must make a network, got {summary(error)}. Correct it.") from error
    inner = network.network if isinstance(network, Classifier) else network
    if state is not None:
        try:
            inner.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"`--weights` must fit the network, got {summary(error, 400)}. Check --model.") from None
        network.eval()
    elif ":" not in job.model or job.model.startswith("torchvision:"):
        raise ValueError(
            f"`--weights` must be given for {job.model!r}, got none. A network without weights knows nothing."
        )
    if not isinstance(network, Classifier):
        return Classifier(network, mean=job.mean, std=job.std)
    if job.mean or job.std:
        raise ValueError("`--mean` and `--std` must be left out for a model that is a Classifier, got them. Drop them.")
    return network


def classes_of(state: Mapping[str, Tensor]) -> int:
    """Number of classes that a state dict was made for: rows of its last head-like matrix; 1000 if there is none."""
    heads = [t for k, t in state.items() if t.ndim == 2 and re.search(r"(fc|head|heads|linear|classifier)\b", k)]
    return max(2, heads[-1].shape[0]) if heads else 1000


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """A state dict from .safetensors, or from a .pt/.pth file that holds nothing but tensors.

    Raises:
        ValueError: the file is missing or holds anything else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that it then refuses
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: weights must exist, but they do not. Check the path.") from None
    except Exception as error:  # torch.load raises whatever a broken file makes it raise
        raise ValueError(
            f"{path}: weights must be .safetensors or plain tensors, got {summary(error)}. Save `state_dict()`."
        ) from None
    state = found.get("state_dict", found) if isinstance(found, dict) else found
    plain = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not plain or not state:
        got = "something else in it" if state and isinstance(state, dict) else type(state).__name__
        raise ValueError(f"{path}: weights must be a state dict of tensors, got {got}. Save `state_dict()`.")
    return {key.removeprefix("module."): value for key, value in state.items()}
