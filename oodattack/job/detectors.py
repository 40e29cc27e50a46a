"""The detectors of a job by name: those of the table on a network, or user code."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from oodattack.detector import Classifier, Detector
from oodattack.detectors import DETECTORS
from oodattack.job.ask import Job
from oodattack.lookup import summary, unknown, user_callable
from oodattack.train import RECIPES


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


def build_detector(
    name: str,
    net: Classifier | None,
    fit: tuple[Tensor, Tensor] | None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Detector:
    """A detector of the table on a network, or user code."""
    if net is None:
        return user_detector(name, device, dtype)
    empty = torch.empty(0)
    x, y = fit or (empty, empty)
    try:
        return DETECTORS[name].build(net, (x.to(device), y.to(device))).to(device, dtype)
    except RuntimeError as error:  # such as images that the network does not take
        why = summary(error)
        raise ValueError(f"detector {name!r} must fit the network, got {why}. Check --model and --fit.") from error


def user_detector(source: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Detector:
    """What `pkg.mod:name` stands for: a detector, or a class or function that needs no arguments to make one."""
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
    return found.to(device, dtype) if isinstance(found, nn.Module) else found
