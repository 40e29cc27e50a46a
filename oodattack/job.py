"""From the words of a command line to the arguments of `evaluate`: data, networks and detectors by name."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodattack import data, models
from oodattack.data import Images
from oodattack.data.auxiliary import auxiliary
from oodattack.detector import Classifier, Detector
from oodattack.detectors import DETECTORS
from oodattack.evaluation import Progress, Shown, evaluate
from oodattack.evaluation.provenance import source_of
from oodattack.lookup import summary, unknown, user_callable
from oodattack.report import Report
from oodattack.report.sheet import contact_sheet, sheet_path
from oodattack.threat import Threat, members_of, read_threat
from oodattack.train import RECIPES, TrainingSet, trained

DEFAULT_DETECTORS = (
    "msp@ce",
    "energy@ce",
    "odin@ce",
    "mahalanobis@ce",
    "si-z@ce",
    "si-a@ce",
    "odin@gq",
    "energy@greg",
    "energy@greg+",
)
DEFAULT_THREATS = ("liang-logit", "linf-8-255", "flagship", "sanity-full-box")
DEFAULT_OOD = ("digits-6-9", "far-mix")
DEFAULT_ID, DEFAULT_OOD_EACH = 500, 200  # images; ID ones cost a scoring pass, OOD ones a search
AUXILIARY = 2400  # outliers that the default networks train with


@dataclass(frozen=True, kw_only=True)
class Job:
    """What `oodattack run` was asked for. Empty tuples and None stand for the embedded default."""

    detectors: tuple[str, ...] = ()
    threats: tuple[str, ...] = ()
    id: str = "digits"
    ood: tuple[str, ...] = ()
    model: str | None = None
    weights: Path | None = None
    fit: str | None = None
    samples: int | None = None
    seed: int = 0
    device: str = "cpu"
    batch_size: int = 256
    out: Path | None = None
    command: str | None = None


class Network(NamedTuple):
    """A classifier in eval mode and its accuracy on held-out ID images, where known."""

    net: Classifier
    accuracy: float | None


def run(job: Job, *, progress: Progress | None = None) -> tuple[Report, Path]:
    """Do what a job says; writes report.json and the contact sheets into the run directory.

    Returns:
        The report and the run directory.

    Raises:
        ValueError: anything that the user can put right; one line.
    """
    threats = [read_threat(t) for t in job.threats or DEFAULT_THREATS]
    names = list(dict.fromkeys(job.detectors or DEFAULT_DETECTORS))
    wanted = [split_name(name, job) for name in names]
    device = checked_device(job.device)
    with run_directory(job.out) as out:
        return run_in(out, job, threats, names, wanted, device, progress), out


def run_in(
    out: Path,
    job: Job,
    threats: list[Threat],
    names: list[str],
    wanted: list[tuple[str, str | None]],
    device: torch.device,
    progress: Progress | None,
) -> Report:
    """The part of `run` that comes after everything that can be checked at once, in a run directory."""
    images = load_images(job, threats)
    networks = load_networks([n for _, n in wanted if n is not None], job, images.id, progress)
    fit = fit_images(job) if any(d in DETECTORS and DETECTORS[d].fits for d, _ in wanted) else None
    detectors: dict[str, Detector] = {}
    for name, (detector, network) in zip(names, wanted, strict=True):
        key = name if network is None else f"{detector}@{network}"
        detectors[key] = build_detector(detector, None if network is None else networks[network].net, fit, device)
    report = evaluate(
        detectors,
        id=images.id.x.to(device),
        ood={i.name: i.x.to(device) for i in images.ood},
        targets=None if images.targets is None else images.targets.x.to(device),
        starts={start: x.to(device) for start, x in images.starts.items()},
        threats=threats,
        seed=job.seed,
        batch_size=job.batch_size,
        progress=progress,
        watch=lambda shown: write_sheet(shown, out),
        provenance={
            "command": job.command,
            "samples": job.samples,
            "id": source_of(images.id.name, images.id.x, source=images.id.source),
            "targets": images.targets and source_of("reference", images.targets.x, source=images.targets.source),
            "ood": [source_of(i.name, i.x, source=i.source) for i in images.ood],
            "id_accuracy": {name: n.accuracy for name, n in networks.items() if n.accuracy is not None},
        },
    )
    report.save(out / "report.json")
    return report


class Loaded(NamedTuple):
    """All images of a job."""

    id: Images
    targets: Images | None
    ood: list[Images]
    starts: dict[str, Tensor]


def load_images(job: Job, threats: list[Threat]) -> Loaded:
    """ID, target, OOD and start images, all in the format of the ID images."""
    id_images = at_most(job.id, job.samples or DEFAULT_ID, seed=job.seed, part="test")
    _, channels, size, width = id_images.x.shape
    look: dict[str, Any] = {"channels": channels, "size": size, "seed": job.seed}
    targets = data.load("digits", part="reference", **look) if job.id == "digits" else None
    names = job.ood or (DEFAULT_OOD if job.id == "digits" else ())
    if not names and any(members_of(t)[0].start == "ood" for t in threats):
        raise ValueError(
            "`--ood` must name a data set, got none. Add one, such as npz:PATH; see `oodattack list datasets`."
        )
    if size != width and (targets or any(name in data.DATASETS for name in names)):
        raise ValueError(f"`--id` images must be square to go with built-in sets, got {size} x {width}. Crop them.")
    n = job.samples or DEFAULT_OOD_EACH
    ood = [at_most(name, n, **look) for name in dict.fromkeys(names)]
    starts = dict.fromkeys(m.start for t in threats for m in members_of(t) if m.start != "ood")
    made = {s: data.start_images(s, n, **look) for s in starts}
    return Loaded(id_images, targets, ood, made)


def at_most(name: str, samples: int, **look: Any) -> Images:
    """A data set, or as many of its images as asked for where it has more."""
    if name in data.DATASETS and data.DATASETS[name].afresh:
        return data.load(name, samples=samples, **look)
    whole = data.load(name, **look)
    return data.subset(whole, min(samples, len(whole.x)), seed=look["seed"])


def fit_images(job: Job) -> tuple[Tensor, Tensor]:
    """Training images and labels for detectors that are fitted.

    Raises:
        ValueError: none were named, or they have no labels.
    """
    if job.fit is None and job.id != "digits":
        raise ValueError("`--fit` must name labelled ID training images for this detector, got none. Add npz:PATH.")
    images = data.load(job.fit, seed=job.seed) if job.fit else data.load("digits", part="train", seed=job.seed)
    if images.y is None:
        raise ValueError(f"`--fit` must have labels, got none in {images.name!r}. Store them under the key `labels`.")
    return images.x, images.y


def split_name(name: str, job: Job) -> tuple[str, str | None]:
    """(detector, network) of "energy@ce" or "energy"; user code has no network of ours.

    Raises:
        ValueError: an unknown detector or network.
    """
    detector, _, network = name.partition("@")
    if ":" in detector:
        return name, None
    if detector not in DETECTORS:
        raise unknown("--detector", detector, [*DETECTORS, "pkg.mod:callable"])
    if job.model is not None:
        if network not in ("", "model"):
            raise ValueError(f"`--detector` must run on the network of --model, got {network!r}. Drop '@{network}'.")
        return detector, "model"
    if job.id != "digits":
        raise ValueError(
            f"`--model` must name a network for {detector!r} on {job.id!r}, got none. Add it and --weights."
        )
    if (network or "ce") not in RECIPES:
        raise unknown("network", network, list(RECIPES))
    return detector, network or "ce"


def load_networks(names: Sequence[str], job: Job, id_images: Images, progress: Progress | None) -> dict[str, Network]:
    """Networks by name: those of the recipes on digits, or the user's own."""
    device = torch.device(job.device)
    if not names:
        return {}
    if job.model is not None:
        return {"model": Network(user_network(job, id_images).to(device), None)}
    training, held_out = default_data()
    found = {}
    for name in dict.fromkeys(names):
        done = trained(name, training, held_out, seed=0, cache=cache_folder(), progress=_training(progress))
        found[name] = Network(Classifier(done.network).to(device), done.accuracy)
    return found


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


def user_network(job: Job, id_images: Images) -> Classifier:
    """The network of --model with the weights of --weights, in the mode that its maker left it in.

    Raises:
        ValueError: weights that cannot be read or do not fit.
    """
    assert job.model is not None
    state = None if job.weights is None else read_weights(job.weights)
    classes = 1000 if state is None else list(state.values())[-1].shape[0] if list(state.values())[-1].ndim else 1000
    try:
        network = models.build(job.model, channels=id_images.x.shape[1], classes=max(2, classes))
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
    return network if isinstance(network, Classifier) else Classifier(network)


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


def build_detector(
    name: str, net: Classifier | None, fit: tuple[Tensor, Tensor] | None, device: torch.device
) -> Detector:
    """A detector of the table on a network, or user code."""
    if net is None:
        return user_detector(name, device)
    empty = torch.empty(0)
    x, y = fit or (empty, empty)
    try:
        return DETECTORS[name].build(net, (x.to(device), y.to(device))).to(device)
    except RuntimeError as error:  # such as images that the network does not take
        why = summary(error)
        raise ValueError(f"detector {name!r} must fit the network, got {why}. Check --model and --fit.") from error


def user_detector(source: str, device: torch.device) -> Detector:
    """What `pkg.mod:name` stands for: a detector, or a class or function that needs no arguments to make one."""
    import inspect

    found: Any = user_callable(source)
    if not isinstance(found, nn.Module):
        try:
            arguments = inspect.signature(found).parameters.values()
            makes = all(a.default is not a.empty or a.kind is a.VAR_KEYWORD for a in arguments)
        except (TypeError, ValueError):
            makes = False
        try:
            found = found() if makes else found
        except Exception as error:  # whatever the user's code does
            raise ValueError(f"`{source}` must make a detector, got {summary(error)}. Correct it.") from error
    if not callable(found):
        raise ValueError(f"`{source}` must give a detector, got {type(found).__name__}. Return a callable x -> scores.")
    return found.to(device) if isinstance(found, nn.Module) else found


def checked_device(name: str) -> torch.device:
    """The device of that name, if this machine has it.

    Raises:
        ValueError: it does not.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`--device` must be there, got {name!r}: {summary(error, 100)}. Try cpu.") from None
    return device


def cache_folder() -> Path:
    """Where trained networks are kept: OODATTACK_CACHE, or the user's cache directory."""
    if chosen := os.environ.get("OODATTACK_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("oodattack")


@contextmanager
def run_directory(out: Path | None) -> Iterator[Path]:
    """Make the run directory, before any work is done; take it away again if the work fails and leaves it empty.

    Raises:
        ValueError: it cannot be written, or already holds a report.
    """
    folder = out or Path("oodattack-runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    if (folder / "report.json").exists():
        raise ValueError(
            f"`--out` must not hold a report yet, got {str(folder)!r}. Choose another folder, or remove it."
        )
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"`--out` must be a writable folder, got {str(folder)!r}: {error.strerror}. Choose another."
        ) from None
    try:
        yield folder
    except BaseException:
        with suppress(OSError):  # not empty: what was finished stays
            for place in made:
                place.rmdir()
        raise


def write_sheet(shown: Shown, out: Path) -> None:
    """Write one cell's contact sheet below the run directory."""
    path = sheet_path(shown.result, out)
    fields = shown._asdict()
    sheet = contact_sheet(fields.pop("result"), **fields)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except OSError as error:
        raise ValueError(f"{path}: contact sheet must be writable, got {error.strerror}. Change --out.") from None
