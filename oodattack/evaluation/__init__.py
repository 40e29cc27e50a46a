"""Score, attack, verify, score again. The only place where detectors, data and attacks meet."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from oodattack.detector import Detector
from oodattack.detectors.store import fingerprint
from oodattack.evaluation.arguments import (
    by_name,
    check_differentiable,
    checked,
    checked_precision,
    distinct,
    each_read,
)
from oodattack.evaluation.batch import Batch, automatic
from oodattack.evaluation.check import check_named, checked_seed
from oodattack.evaluation.images import ImageSet, all_in_memory, device_of, in_memory
from oodattack.evaluation.keeper import Attacked, Keeper
from oodattack.evaluation.outcome import to_8_bits
from oodattack.evaluation.provenance import Provenance
from oodattack.evaluation.run import Run
from oodattack.evaluation.setup import Precision, Progress, Setup
from oodattack.full_precision import full_precision
from oodattack.identity import sha256_of_networks, versions
from oodattack.report import Report, Spec
from oodattack.report.sheet import Shown
from oodattack.threat import Threat, file_hash, limits_of

__all__ = [
    "Attacked",
    "Keeper",
    "Progress",
    "Provenance",
    "Shown",
    "automatic",
    "evaluate",
    "to_8_bits",
]


@full_precision()
def evaluate(
    detector: Detector | Mapping[str, Detector],
    *,
    id: ImageSet,
    ood: Mapping[str, ImageSet],
    threats: str | Path | Threat | Sequence[str | Path | Threat],
    seed: int,
    targets: ImageSet | None = None,
    starts: Mapping[str, ImageSet] | None = None,
    batch_size: int | None = None,
    precision: Precision = "full",
    certify: bool = False,
    progress: Progress | None = None,
    watch: Callable[[Shown], None] | None = None,
    provenance: Provenance | None = None,
    keeper: Keeper | None = None,
) -> Report:
    """AUROC of detectors before and after an attack within each threat model, on each OOD set.

    Args:
        detector: one detector, or several by name; "energy@ce" reads as detector "energy" on network "ce".
        id: images that should score low, shape (N, C, H, W), in [0, 1]; or a DataLoader or Dataset of PyTorch that
            yields such images, by themselves or with labels, and is read into memory.
        ood: name -> images that should score high, same C, H, W; tensors or loaders, as all images here.
        threats: names of shipped threat models, paths of TOML files, either at another radius ("ood-aa@2/255"), or
            `ThreatModel`s; a single one will do.
        seed: fixes all randomness of the searches.
        targets: ID images beside `id`, for threats that ask for some: matching unless `paired`, quantiles, start "id".
            None: where one does, every other row of `id` becomes a target, and only the rest is evaluated, within all
            threats of the call. Beside "liang-latent" any other one has half the ID images.
        starts: name -> images (N, C, H, W) for threat models whose `start` is not "ood".
        batch_size: rows attacked at a time; changes nothing but rounding, and what scores and attacks draw that use
            torch's own random numbers. None: chosen to fit. Where the device runs out of memory all the same, it falls.
        precision: of the searches: that of the images ("full"), or "bfloat16" in the network's layers. Whatever comes
            out is scored in full: on a GPU too float32 is computed in float32, not in TF32.
        certify: bound all scores on the ball too, see `oodattack.bounds`: a certified AUROC beside the attacked one,
            or the reason why there is none.
        progress: called with (label, done, all) as row-queries are spent.
        watch: called once a cell with a few of its images.
        provenance: what only the caller knows, for the report's `spec`.
        keeper: of finished blocks and of images, see `oodattack.runs`. None: nothing is kept.

    Returns:
        The report. Every attacked score comes from scoring the returned image afresh with the untouched detector.

    Raises:
        ValueError: images out of range or of another shape, an empty set, NaN scores, a detector in training mode, an
            unknown threat, one that bears the name of a shipped one with other content, or none that applies.
        FloatingPointError: what a search follows, such as a surrogate, is not finite on the images that it starts from.
    """
    seed, precision = checked_seed(seed), checked_precision(precision)
    check_named("ood", "images", ood)
    check_named("starts", "images", starts or {})
    detectors = by_name(detector)
    read = distinct(each_read(threats))
    check_differentiable(read)
    device = device_of(detectors)  # of loaders, which know of none
    id = in_memory(id, "id", device=device, seed=seed)
    targets = None if targets is None else in_memory(targets, "targets", device=device, seed=seed)
    ood, starts = (all_in_memory(sets, device=device, seed=seed) for sets in (ood, starts or {}))
    id, targets = checked(detectors, read, id, ood, targets)
    batch = automatic(next(iter(detectors.values())), id) if batch_size is None else Batch(batch_size)
    setup = Setup(
        detectors=detectors,
        id=id,
        ood=ood,
        targets=targets,
        starts=starts,
        seed=seed,
        batch=batch,
        precision=precision,
        progress=progress,
        certify=certify,
        keeper=keeper or Keeper(),
    )
    run = Run(setup, watch)
    with torch.random.fork_rng(devices=[id.device] if id.device.type == "cuda" else []):
        torch.manual_seed(seed)  # for detectors that use random numbers of their own, and other libraries' attacks
        run.all(read)
    return report_of(run, read, provenance or Provenance())


def report_of(run: Run, threats: Sequence[Threat], known: Provenance) -> Report:
    """The report of a run that is over.

    Raises:
        ValueError: no threat applied to any detector, so there is nothing to report.
    """
    if not run.results:
        no = run.searches.skipped[0]
        why = f"{no.threat} on {no.detector}: {no.reason}"
        raise ValueError(f"`threats` must apply to a detector, got none that does ({why}). Change one of them.")
    return Report(
        schema=1,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        spec=spec_of(run.setup, threats, known),
        versions=versions(),
        results=run.results,
        skipped=run.searches.skipped,
        curves=run.curves,
    )


def spec_of(setup: Setup, threats: Sequence[Threat], known: Provenance) -> Spec:
    """What was evaluated: enough to do it again and to tell whether two reports are of the same."""
    id, targets, ood, detectors = setup.id, setup.targets, setup.ood, setup.detectors
    used = {limits_of(threat).start for threat in threats}
    return Spec(
        command=known.command,
        samples=known.samples,
        id=known.source("id", id),
        targets=None if targets is None else known.source("targets", targets),
        ood=[known.source(name, x) for name, x in ood.items()],
        starts=[
            known.source(name, x).model_copy(update={"name": name}) for name, x in setup.starts.items() if name in used
        ],
        id_accuracy=dict(known.id_accuracy),
        seed=setup.seed,
        batch_size=setup.batch.block,
        precision=setup.precision,
        device=str(id.device),
        detectors=list(detectors),
        networks=sha256_of_networks(detectors),
        fingerprints={name: fingerprint(d) for name, d in detectors.items()},
        threats={t.name: file_hash(t) for t in threats},
        overlaps=known.overlaps({"id": id, **({} if targets is None else {"targets": targets}), **ood}),
    )
