"""The images of a job by name."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from oodattack import data
from oodattack.data import Images
from oodattack.data.auxiliary import auxiliary
from oodattack.data.disk import Room, moved
from oodattack.data.registry import part_to_fit
from oodattack.detectors import Fit
from oodattack.job.ask import DEFAULT_ID, DEFAULT_OOD, DEFAULT_OOD_EACH, Job
from oodattack.job.look import look_of
from oodattack.threat import Threat, limits_of, members_of

VALIDATION = 400  # outliers that detectors are tuned on in the default run


class Loaded(NamedTuple):
    """All images of a job."""

    id: Images
    targets: Images | None
    ood: list[Images]
    starts: dict[str, Tensor]

    def to(self, device: torch.device, dtype: torch.dtype, room: Room) -> "Loaded":
        """The same images elsewhere, or in another precision; see `moved`."""

        def there(images: Images) -> Images:
            return images._replace(x=moved(images.x, device, dtype, room))

        return Loaded(
            there(self.id),
            self.targets and there(self.targets),
            [there(images) for images in self.ood],
            {start: moved(x, device, dtype, room) for start, x in self.starts.items()},
        )


def load_images(job: Job, threats: list[Threat], room: Room | None = None) -> Loaded:
    """ID, target, OOD and start images in one format; many of them in `room`, if there is one."""
    here: dict[str, Any] = {"seed": job.seed, "root": job.data_root, "room": room}
    id_images = at_most(job.id, job.samples or DEFAULT_ID, part="test", protocol=job.protocol, **here)
    _, channels, size, width = id_images.x.shape
    look: dict[str, Any] = {"channels": channels, "size": size, "seed": job.seed}
    targets = None
    if job.id == "digits":
        targets = data.load("digits", part="reference", seed=job.seed, **look_of("digits", id_images, job.protocol))
    needs_ood = any(limits_of(t).start == "ood" for t in threats)
    if job.ood and not needs_ood:
        raise ValueError("`--ood` must be used by a threat, but all of them bring their own start images. Drop it.")
    asked = job.ood or (DEFAULT_OOD if job.id == "digits" and needs_ood else ())
    names = data.expand(asked, id_name=job.id)
    if not names and needs_ood:
        raise ValueError(
            "`--ood` must name a data set, got none. Add one, such as npz:PATH; see `oodattack list datasets`."
        )
    if size != width and (targets or any(name in data.DATASETS for name in names)):
        raise ValueError(f"`--id` images must be square to go with built-in sets, got {size} x {width}. Crop them.")
    n = job.samples or DEFAULT_OOD_EACH
    ood = [at_most(name, n, **look_of(name, id_images, job.protocol), **here) for name in names]
    starts = dict.fromkeys(m.start for t in threats for m in members_of(t) if m.start not in ("ood", "id"))
    made = {s: data.start_images(s, n, room=room or torch.empty_like, **look) for s in starts}
    return Loaded(id_images, targets, ood, made)


def at_most(name: str, samples: int, **look: Any) -> Images:
    """A data set, or as many of its images as asked for where it has more."""
    return data.load(name, samples=samples, at_most=True, **look)


def fit_images(job: Job, *, tunes: bool, room: Room | None = None) -> Fit:
    """Training images and labels for detectors that are fitted, and validation images.

    Args:
        job: what was asked for.
        tunes: whether a detector needs OOD validation images; on digits those are outliers made for training.
        room: where to put many images.

    Raises:
        ValueError: none were named, they have no labels, or validation images are of another shape.
    """
    if job.fit is None and job.id != "digits":
        raise ValueError("`--fit` must name labelled ID training images for this detector, got none. Add npz:PATH.")
    if tunes and job.ood_validation is None and job.id != "digits":
        raise ValueError("`--ood-validation` must name OOD images for this detector, got none. Add npz:PATH.")
    name = job.fit or "digits"
    images = data.load(
        name, part=part_to_fit(name), seed=job.seed, root=job.data_root, protocol=job.protocol, room=room
    )
    if images.y is None:
        raise ValueError(f"`--fit` must have labels, got none in {images.name!r}. Store them under the key `labels`.")
    known, strange = (
        None if named is None else validation(option, named, job, images, room)
        for option, named in (("--id-validation", job.id_validation), ("--ood-validation", job.ood_validation))
    )
    if strange is None and job.id == "digits":
        strange = auxiliary(VALIDATION, train=images, seed=1)
    return Fit(images.x, images.y, strange, known)


def fit_moved(fit: Fit, device: torch.device, dtype: torch.dtype, room: Room) -> Fit:
    """The same elsewhere, images in another precision; see `moved`."""
    ood_val, id_val = (x if x is None else moved(x, device, dtype, room) for x in (fit.ood_val, fit.id_val))
    return Fit(moved(fit.x, device, dtype, room), fit.y.to(device), ood_val, id_val)


def validation(option: str, name: str, job: Job, train: Images, room: Room | None) -> Tensor:
    """The images that an option names, in the format of the training images.

    Raises:
        ValueError: they are of another shape.
    """
    look = look_of(name, train, job.protocol)
    x = data.load(name, seed=job.seed, root=job.data_root, room=room, **look).x
    if x.shape[1:] != train.x.shape[1:]:
        wanted, found = tuple(train.x.shape[1:]), tuple(x.shape[1:])
        raise ValueError(f"`{option}` must have the shape {wanted} of --fit, got {found}. Resize them.")
    return x
