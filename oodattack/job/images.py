"""The images of a job by name."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oodattack import data
from oodattack.data import Images
from oodattack.data.auxiliary import auxiliary
from oodattack.data.disk import Room, moved
from oodattack.data.registry import part_to_fit
from oodattack.detectors import Fit, Row
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


def fit_images(job: Job, rows: Sequence[Row], *, room: Room | None = None) -> Fit:
    """Training images and labels for detectors that are fitted, and validation images; no more than they need is asked.

    Args:
        job: what was asked for.
        rows: of the detectors.
        room: where to put many images.

    Raises:
        ValueError: what a detector needs was not named, has no labels, or is of another shape than the rest.
    """
    check_named(job, rows)
    here: dict[str, Any] = {"seed": job.seed, "root": job.data_root, "room": room}
    known: Tensor | None = None
    if job.fit is None and job.id != "digits":
        assert job.id_validation is not None  # else `check_named` would have asked for --fit
        first = data.load(job.id_validation, protocol=job.protocol, **here)
        beside, train, known = "--id-validation", Images(first.name, first.x[:0], None, first.source), first.x
    else:
        name = job.fit or "digits"
        first = train = data.load(name, part=part_to_fit(name), protocol=job.protocol, **here)
        beside = "--fit"
        if train.y is None and (labelled := [row for row in rows if row.labels]):
            raise ValueError(
                f"`--fit` must have labels for {listed(labelled)}, got none in {train.name!r}. "
                "Store them under the key `labels`."
            )
        if job.id_validation is not None:
            known = validation("--id-validation", job.id_validation, job, first, beside, room)
    strange = None
    if job.ood_validation is not None:
        strange = validation("--ood-validation", job.ood_validation, job, first, beside, room)
    elif job.id == "digits":
        strange = auxiliary(VALIDATION, train=train, seed=1)
    return Fit(train.x, train.y, strange, known)


def check_named(job: Job, rows: Sequence[Row]) -> None:
    """Raise ValueError unless everything that detectors are fitted on was named; on digits there is a default."""
    if job.id == "digits":
        return
    fitted = [row for row in rows if row.fits and not (row.known and job.id_validation)]
    if fitted and job.fit is None:
        kind = "labelled ID" if any(row.labels for row in fitted) else "ID"
        more = ", or images to tune on with --id-validation" if all(row.known for row in fitted) else ""
        raise ValueError(
            f"`--fit` must name {kind} training images for {listed(fitted)}, got none. Add npz:PATH{more}."
        )
    tuned = [row for row in rows if row.tunes]
    if tuned and job.ood_validation is None:
        raise ValueError(f"`--ood-validation` must name OOD images for {listed(tuned)}, got none. Add npz:PATH.")


def listed(rows: Sequence[Row]) -> str:
    """The names of detectors."""
    return ", ".join(repr(row.name) for row in rows)


def fit_moved(fit: Fit, device: torch.device, dtype: torch.dtype, room: Room) -> Fit:
    """The same elsewhere, images in another precision; see `moved`."""
    ood_val, id_val = (x if x is None else moved(x, device, dtype, room) for x in (fit.ood_val, fit.id_val))
    y = None if fit.y is None else fit.y.to(device)
    return Fit(moved(fit.x, device, dtype, room), y, ood_val, id_val)


def validation(option: str, name: str, job: Job, first: Images, beside: str, room: Room | None) -> Tensor:
    """The images that an option names, in the format of the first ones, which the option `beside` names.

    Raises:
        ValueError: they are of another shape.
    """
    look = look_of(name, first, job.protocol)
    x = data.load(name, seed=job.seed, root=job.data_root, room=room, **look).x
    if x.shape[1:] != first.x.shape[1:]:
        wanted, found = tuple(first.x.shape[1:]), tuple(x.shape[1:])
        raise ValueError(f"`{option}` must have the shape {wanted} of {beside}, got {found}. Resize them.")
    return x
