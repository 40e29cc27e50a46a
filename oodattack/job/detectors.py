"""The detectors of a job by name: those of the table on a network, or user code."""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from oodattack.adapters import OpenOOD, PytorchOOD, adapted
from oodattack.adapters.http_scorer import is_address, scorer_at
from oodattack.classifier import Classifier
from oodattack.detector import Detector, check_detector
from oodattack.detectors import DETECTORS, Fit
from oodattack.faults import fault
from oodattack.job.ask import Job
from oodattack.job.networks import model_names
from oodattack.lookup import unknown, user_callable
from oodattack.train import RECIPES

OWN = (nn.Module, PytorchOOD, OpenOOD)  # what can be moved to a device, and is a detector as it is


class Wanted(NamedTuple):
    """A detector by its name in the table, or user code, and the names of the networks that it looks at.

    User code has no network of ours, nor have detectors of the table that look at the images alone.
    """

    detector: str
    networks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the report calls it: "ensemble@ce,gq", or the detector alone."""
        return f"{self.detector}@{','.join(self.networks)}" if self.networks else self.detector


def split_name(name: str, job: Job) -> Wanted:
    """What "energy@ce" or "energy", "ensemble@ce,gq" or "pkg.mod:callable" asks for.

    Raises:
        ValueError: an unknown detector or network, or the wrong number of networks.
    """
    detector, _, network = name.partition("@")
    if ":" in detector:
        return Wanted(name)
    if detector not in DETECTORS:
        raise unknown("--detector", detector, [*DETECTORS, "pkg.mod:callable"])
    if DETECTORS[detector].bare:
        if "@" in name:
            raise ValueError(f"`--detector` {detector} must have no network, got {network!r}. Drop it and the @.")
        return Wanted(detector)
    if job.model is None and job.id != "digits":
        raise ValueError(
            f"`--model` must name a network for {detector!r} on {job.id!r}, got none. Add it and --weights."
        )
    known = model_names(job) if job.model is not None else list(RECIPES)
    several = DETECTORS[detector].several
    found = network.split(",") if network else known if several else known[:1]
    for one in found:
        if one not in known:
            raise unknown("network", one, known)
    if several != (len(found) > 1):
        rule = "several networks, as in ensemble@ce,gq" if several else "one network"
        raise ValueError(f"`--detector` {detector} must have {rule}, got {','.join(found)!r}. Name them after an @.")
    return Wanted(detector, tuple(found))


def build_detector(
    name: str,
    nets: Sequence[Classifier],
    fit: Fit | None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Detector:
    """A detector of the table on its network or networks, if it has any, or user code."""
    if name not in DETECTORS:
        return user_detector(name, device, dtype)
    row, empty = DETECTORS[name], torch.empty(0)
    try:
        return row.on(nets, fit or Fit(empty, empty)).to(device, dtype)
    except ValueError as error:
        raise ValueError(f"detector {name!r}: {error}") from error
    except RuntimeError as error:  # such as images that the network does not take
        why = fault(error)
        raise ValueError(f"detector {name!r} must fit the network, got {why}. Check --model and --fit.") from error


def user_detector(source: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Detector:
    """What `pkg.mod:name` stands for: a detector, or a class or function that needs no arguments to make one.

    Or the scorer behind an address.
    """
    if is_address(source):
        return scorer_at(source)
    found: Any = adapted(user_callable(source))
    if not isinstance(found, OWN):
        try:
            arguments = inspect.signature(found).parameters.values()
            makes = all(a.default is not a.empty or a.kind is a.VAR_KEYWORD for a in arguments)
        except (TypeError, ValueError):
            makes = False
        try:
            found = adapted(found() if makes else found)
        except (Exception, SystemExit) as error:  # whatever the user's code does
            raise ValueError(f"`{source}` must make a detector, got {fault(error)}. Correct it.") from error
    if not callable(found):
        raise ValueError(f"`{source}` must give a detector, got {type(found).__name__}. Return a callable x -> scores.")
    check_detector(found, source)
    return found.to(device, dtype) if isinstance(found, OWN) else found
