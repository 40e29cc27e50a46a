"""The networks of a job by name: those of the recipes on digits, or the user's own with weights from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from oodattack import models
from oodattack.classifier import Classifier, inner
from oodattack.data import Images
from oodattack.job.ask import Job
from oodattack.job.id_classes import id_classes
from oodattack.job.normalisation import mean_and_std
from oodattack.job.seen import read_seen
from oodattack.job.training import cache_folder, labelled_training
from oodattack.job.training_data import default_data
from oodattack.models.weights import classes_of, load_weights, read_weights
from oodattack.train import Setting, checked_record, trained
from oodattack.train.loop import Progress

OF_THE_CLASS = "outlier-class"  # the detector that looks at the outlier class


class Network(NamedTuple):
    """A network of a job.

    Attributes:
        net: classifier with the ID classes alone.
        accuracy: on held-out ID images, where known.
        whole: the classifier with its outlier class; None where it is known to have none.
    """

    net: Classifier
    accuracy: float | None
    whole: Classifier | None

    def seen_by(self, detector: str) -> Classifier:
        """What a detector of the table looks at.

        Raises:
            ValueError: it looks at an outlier class that is not there.
        """
        if detector != OF_THE_CLASS:
            return self.net
        if self.whole is None:
            raise ValueError(
                f"`--detector` {OF_THE_CLASS} must have a network with an outlier class, got one without. Name one "
                f"of dos or openmix, as in {OF_THE_CLASS}@dos."
            )
        return self.whole


def load_networks(names: Sequence[str], job: Job, id_images: Images, progress: Progress | None) -> dict[str, Network]:
    """Networks by name: those of the recipes on digits, or the user's own."""
    device = torch.device(job.device)
    if not names:
        return {}
    if job.model is not None:
        files = dict(zip(model_names(job), job.weights or (None,), strict=True))
        return {name: user_network(job, file, id_images, device) for name, file in files.items() if name in names}
    fed, bars = default_data(), labelled_training(progress)
    found = {}
    for name in dict.fromkeys(names):
        done = trained(name, fed.training, fed.held_out, setting=Setting(seed=0), cache=cache_folder(), progress=bars)
        accuracy = None if job.protocol else done.accuracy  # of digits as stored
        found[name] = network_of(Classifier(done.network).to(device), done.record, accuracy)
    return found


def learnt_by(names: Sequence[str], job: Job) -> dict[str, Any]:
    """What the networks were trained on, images or their digests; of the user's own where that lies beside the weights.

    Raises:
        ValueError: what lies there is not as it was written.
    """
    if not names or job.model is None:
        return dict(default_data().learnt()) if names else {}
    files = {name: file for name, file in zip(model_names(job), job.weights, strict=False) if name in names}
    return {
        f"{what} of {name}": found
        for name, file in files.items()
        for what, found in read_seen(file, checked_record(file)).items()
    }


def network_of(whole: Classifier, record: dict[str, Any] | None, accuracy: float | None) -> Network:
    """A network with what its record says of its outputs; without a record, they are all taken for ID classes."""
    if record is None:
        return Network(whole, accuracy, whole)
    if record["outlier_class"] is None:
        return Network(whole, accuracy, None)
    return Network(id_classes(whole, record["classes"]), accuracy, whole)


def model_names(job: Job) -> list[str]:
    """What the networks of --model are called: "model", or "model1", "model2", ... with several --weights."""
    n = len(job.weights)
    return [f"model{i + 1}" for i in range(n)] if n > 1 else ["model"]


def user_network(job: Job, weights: Path | None, id_images: Images, device: torch.device) -> Network:
    """The network of --model with the weights of a file, in the mode that its maker left it in.

    Raises:
        ValueError: weights that cannot be read or do not fit.
    """
    assert job.model is not None
    state = None if weights is None else read_weights(weights)
    record = None if weights is None else checked_record(weights)
    network = models.build(job.model, channels=id_images.x.shape[1], classes=classes_of(state or {}))
    if weights is not None and state is not None:
        load_weights(inner(network), state, where=weights)
        network.eval()
    elif not models.by_user_code(job.model):
        raise ValueError(
            f"`--weights` must be given for {job.model!r}, got none. A network without weights knows nothing."
        )
    same = record is not None and (record.get("id"), record.get("protocol")) == (job.id, job.protocol)
    accuracy = record["accuracy"] if record is not None and same else None
    return network_of(classifier(network, job, weights, record).to(device), record, accuracy)


def classifier(network: torch.nn.Module, job: Job, weights: Path | None, record: dict[str, Any] | None) -> Classifier:
    """A network with its normalisation: that of --mean and --std, or the one that it was trained with.

    Raises:
        ValueError: they are given and must not be, or differ from those of its training.
    """
    if isinstance(network, Classifier):
        if job.mean or job.std:
            raise ValueError(
                "`--mean` and `--std` must be left out for a model that is a Classifier, got them. Drop them."
            )
        return network
    mean, std = mean_and_std(job.mean, job.std, weights=weights, record=record)
    return Classifier(network, mean=mean, std=std)
