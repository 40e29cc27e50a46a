"""A job whose words have been understood, before anything is loaded."""

from typing import NamedTuple

import torch

from oodattack.classifier.normalisation import normalisation
from oodattack.data.groups import expand
from oodattack.data.registry import check_names
from oodattack.job.ask import DEFAULT_DETECTORS, DEFAULT_THREATS, ON_A_MODEL, Job
from oodattack.job.detectors import Wanted, split_name
from oodattack.job.device import checked_device
from oodattack.runs.ranks import Ranks, join
from oodattack.threat import Threat, own_name, read_threat


class Asked(NamedTuple):
    """A job whose words have been understood.

    Attributes:
        job: itself.
        threats: read.
        wanted: detectors, each once.
        device: of this process.
        ranks: the processes of the run.
    """

    job: Job
    threats: list[Threat]
    wanted: list[Wanted]
    device: torch.device
    ranks: Ranks


def understood(job: Job) -> Asked:
    """Read and check what can be before anything is loaded.

    Raises:
        ValueError: a threat, data set, detector, network, option or device that is not to be had; one line.
    """
    check_names({"--id": [job.id]})
    check_names({"--ood": expand(job.ood, id_name=job.id), "--fit": [job.fit]})
    check_names({"--id-validation": [job.id_validation], "--ood-validation": [job.ood_validation]})
    threats = [own_name(read_threat(t)) for t in job.threats or DEFAULT_THREATS]
    if job.model is None and (job.weights or job.mean or job.std):
        raise ValueError("`--weights`, `--mean`, `--std` must come with --model, got no model. Add it, or drop them.")
    normalisation(job.mean, job.std)
    names = job.detectors or (ON_A_MODEL if job.model else DEFAULT_DETECTORS)
    wanted = list(dict.fromkeys(split_name(name, job) for name in names))
    ranks = join()
    device = checked_device(job.device, ranks)
    return Asked(job, threats, wanted, device, ranks)
