"""What a job is about, loaded and fitted: images, networks, detectors."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from oodattack.data.disk import Room
from oodattack.detector import Detector
from oodattack.detectors import DETECTORS
from oodattack.evaluation import Progress
from oodattack.job.detectors import Wanted, build_detector
from oodattack.job.images import Loaded, fit_images, fit_moved, load_images
from oodattack.job.networks import Network, learnt_by, load_networks
from oodattack.job.suited import check_open, check_outlier_class
from oodattack.job.understood import Asked
from oodattack.runs.images import dtype_of


class Ready(NamedTuple):
    """What a job is about, loaded and fitted."""

    images: Loaded
    networks: Mapping[str, Network]
    detectors: dict[str, Detector]
    learnt: Mapping[str, Any]  # images, or their digests


def prepare(asked: Asked, room: Room, progress: Progress | None) -> Ready:
    """Load images and networks, fit detectors; `room` is for images that are many."""
    job, device = replace(asked.job, device=str(asked.device)), asked.device
    images = load_images(job, asked.threats, room)
    names = [n for wanted in asked.wanted for n in wanted.networks]
    networks = load_networks(names, job, images.id, progress)
    dtype = dtype_of(job.dtype)
    rows = [DETECTORS[d] for d, _ in asked.wanted if d in DETECTORS]
    fit = None
    if any(row.fits for row in rows):
        fit = fit_moved(fit_images(job, rows, room=room), device, dtype, room)
    one, labels = images.id.x[:1].to(device, dtype), {"--id": images.id.y, "--fit": fit.y if fit else None}
    detectors: dict[str, Detector] = {}
    for wanted in told(asked, progress):
        nets = [networks[n].seen_by(wanted.detector).to(dtype) for n in wanted.networks]
        for n in wanted.networks:
            check_outlier_class(wanted.detector, networks[n], one, labels)
        detectors[wanted.name] = found = build_detector(wanted.detector, nets, fit, device, dtype)
        check_open(wanted.name, found, one)
    learnt = learnt_by(names, job) | (fit.sets() if fit else {})
    return Ready(images.to(device, dtype, room), networks, detectors, learnt)


def told(asked: Asked, progress: Progress | None) -> Iterator[Wanted]:
    """The detectors of a job; what is being fitted is told meanwhile."""
    fitted = [w for w in asked.wanted if w.detector in DETECTORS and DETECTORS[w.detector].fits]
    tell = progress if fitted and asked.ranks.speaks else None
    for wanted in asked.wanted:
        if tell and wanted in fitted:
            i = fitted.index(wanted)
            tell(f"fitting {wanted.name} ({i + 1} of {len(fitted)})", i, len(fitted))
        yield wanted
    if tell:
        tell("fitting is done", len(fitted), len(fitted))
