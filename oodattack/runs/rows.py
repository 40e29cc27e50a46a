"""Row by row: images inside their limits, and what the detector says of them, computed again."""

from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from oodattack.full_precision import full_precision
from oodattack.geometry import row_random
from oodattack.metrics import id_threshold, same_scores
from oodattack.numbers import TPR
from oodattack.report import Metrics
from oodattack.report.record import Key
from oodattack.runs.evidence import ROWS_A_FILE, Cell, Side
from oodattack.runs.images import Inputs
from oodattack.runs.line import Line, open_question, told
from oodattack.threat import Suite, ThreatModel, limits_of

Detector = Callable[[Tensor], Tensor]
Scores = dict[str, Tensor]


class Afresh(NamedTuple):
    """What detectors say now; of those that use random numbers, nothing.

    Attributes:
        clean: detector -> set -> scores before any attack.
        sides: whatever tells a side from others -> "scores" and "scores_8bit", or nothing.
        before: (detector, OOD set) -> the numbers of its saved scores before any attack, the same for every threat.
        boxes: (detector, threat with the whole box, OOD set) -> attacked side -> saved scores.
    """

    clean: dict[str, Scores]
    sides: dict[tuple[str, ...], Scores]
    before: dict[tuple[str, str], Metrics]
    boxes: dict[Key, Scores]


def of_scores(inputs: Inputs, name: str, detector: Detector, size: int) -> Generator[Line, None, Scores]:
    """A detector's scores of every set before any attack; returns what it says now, by set, unless that is random."""
    afresh = {}
    for images in inputs.evidence.clean[name]:
        claimed = inputs.clean(name, images)
        found = torch.cat([scores_of(detector, block, size, inputs.device) for block in inputs.blocks(images)])
        random = differ(found[:ROWS_A_FILE], scores_of(detector, inputs.block(images, 0), size, inputs.device), found)
        yield compared(f"{name} on {images}: scores", claimed, found, claimed, random=random)
        if not random:
            afresh[images] = found
    return afresh


def of_side(
    where: str,
    inputs: Inputs,
    side: Side,
    threat: ThreatModel | Suite,
    detector: Detector,
    cell: Cell,
    *,
    seed: int,
    size: int,
) -> Generator[Line, None, Scores]:
    """One attacked side: limits of the threat, scores exact and in 8 bits, distances, targets.

    Returns what the detector says now, by field; nothing where it uses random numbers.

    Args:
        where: what lines begin with.
        inputs: of the run.
        side: which files.
        threat: what was allowed.
        detector: loaded afresh.
        cell: of the side.
        seed: of the run, which decides the targets.
        size: images a forward pass.
    """
    limits = limits_of(threat)
    name, where = cell.detector, f"{where}, {side.images}"
    clean = inputs.clean(name, side.images)
    yield told(f"{where}: files", -(-inputs.count(side.images) // ROWS_A_FILE), len(side.shards))
    known = torch.cat([clean, inputs.clean(name, "id"), inputs.clean(name, f"ood/{cell.ood}")])
    afresh: dict[str, list[Tensor]] = {"scores": [], "scores_8bit": []}
    ever_random = False
    accepted = id_threshold(inputs.clean(name, "id"), tpr=TPR) if limits.aim == "cross" else None
    for first, file in zip(range(0, len(clean), ROWS_A_FILE), side.shards, strict=False):
        shard, x = inputs.tensors(file), inputs.block(side.images, first)
        at = f"{where}, rows {first} to {first + len(x) - 1}"
        yield told(f"{at}: rows", list(range(first, first + len(x))), shard["row"].tolist())
        yield told(f"{at}: clean scores", clean[first : first + len(x)].tolist(), shard["clean"].tolist())
        yield from of_limits(at, shard, x, threat)
        once, again = (scores_of(detector, x, size, inputs.device) for _ in range(2))
        random = differ(once, again, known)
        ever_random |= random
        for field, images in (("scores", shard["x_adv"]), ("scores_8bit", shard["x_8bit"].to(x.dtype) / 255)):
            again = scores_of(detector, images, size, inputs.device)
            yield compared(f"{at}: {field}", shard[field], again, known, random=random)
            afresh[field].append(again)
        if accepted is not None:
            yield of_crossing(at, shard, accepted, exact=not isinstance(threat, Suite))
        if limits.aim == "match":
            yield from of_targets(at, inputs, shard, limits, detector, cell.ood, first, seed=seed, size=size)
    return {} if ever_random else {field: torch.cat(parts) for field, parts in afresh.items()}


def of_limits(at: str, shard: dict[str, Tensor], x: Tensor, threat: ThreatModel | Suite) -> Iterator[Line]:
    """Images in the box and in the ball, in pixel units, and the distances that are claimed."""
    limits, x_adv = limits_of(threat), shard["x_adv"]
    low, high = x_adv.min().item(), x_adv.max().item()
    yield Line(f"{at}: pixels", "in [0, 1]", f"in [{low:.6g}, {high:.6g}]", low >= 0 and high <= 1)
    start = shard.get("start", x)
    if "start" in shard and limits.after is not None:
        before = limits.after.distance(start, x)
        yield inside(f"{at}: {limits.after.norm} distance of the start", before, limits.after, x)
    elif "start" in shard:
        yield Line(f"{at}: start", "the input", "another image", torch.equal(start, x))
    distance = limits.distance(x_adv, start)
    yield inside(f"{at}: {limits.norm} distance", distance, limits, x)
    off = (distance - shard["distance"]).abs().max().item()
    claimed = shard["distance"].max().item()
    yield Line(
        f"{at}: distances", f"{claimed:.6g}", f"{distance.max().item():.6g}", off <= 1e-5 * max(limits.eps, 1e-3)
    )
    rounded = (x_adv * 255).round().to(torch.uint8)
    if isinstance(threat, Suite) and threat.queries is None:  # the worst of the members in 8 bits may be another image
        step = (0.5 / 255) * {"l2": x[0].numel() ** 0.5, "l1": x[0].numel()}.get(limits.norm, 1.0)
        if limits.norm != "patch" and "start" not in shard:
            far = limits.distance(shard["x_8bit"].to(x.dtype) / 255, x)
            yield inside(f"{at}: {limits.norm} distance in 8 bits", far, limits, x, more=step)
    else:
        unlike = int((rounded != shard["x_8bit"]).flatten(1).any(dim=1).sum())
        yield told(f"{at}: rows whose 8-bit image is another", 0, unlike)


def of_crossing(at: str, shard: dict[str, Tensor], threshold: float, *, exact: bool) -> Line:
    """Distances to the threshold are those of the saved images that are beyond it; in a suite, at most those."""
    nearest = shard["distance"].double().masked_fill(shard["scores"].double() > threshold, torch.inf)
    nearest = nearest.masked_fill(shard["clean"].double() <= threshold, 0.0)
    claimed = shard["crossing"].double()
    agree = claimed <= nearest * (1 + 1e-5) + 1e-9
    if exact:
        agree &= claimed >= nearest * (1 - 1e-5) - 1e-9
    agree |= claimed.isinf() & nearest.isinf()
    said, again = (f"{int(part.isfinite().sum())} rows beyond" for part in (claimed, nearest))
    return Line(f"{at}: distances to the threshold", said, again, bool(agree.all()))


def inside(what: str, distance: Tensor, limits: ThreatModel, x: Tensor, more: float = 0.0) -> Line:
    """Distances within a radius, up to rounding, and `more` where it is larger for other reasons."""
    largest = distance.max().item()
    return Line(what, f"<= {limits.eps:.6g}", f"{largest:.6g}", largest <= limits.largest(x) + more)


def of_targets(
    at: str,
    inputs: Inputs,
    shard: dict[str, Tensor],
    limits: ThreatModel,
    detector: Detector,
    ood: str,
    first: int,
    *,
    seed: int,
    size: int,
) -> Iterator[Line]:
    """The targets are those of the seed, and the images as far from them as claimed."""
    pool = "id" if limits.paired else "targets"
    n, rows = inputs.count(pool), torch.arange(first, first + len(shard["row"]))
    order = torch.arange(n)
    if not limits.paired:
        order = row_random(seed, f"{ood}/targets", range(n), "cpu", torch.float32).uniform((1,)).flatten().argsort()
    yield told(f"{at}: targets", order[rows % n].tolist(), shard["target"].tolist())
    latent = detector if limits.match == "score" else detector.latent  # type: ignore[attr-defined]
    z_in = scores_of(latent, inputs.rows(pool, shard["target"]), size, inputs.device)
    z_out = scores_of(latent, shard["x_adv"], size, inputs.device)
    z_in, z_out = z_in.view(len(z_in), -1), z_out.view(len(z_out), -1)
    largest = z_in.abs().amax(dim=1).clamp(min=torch.finfo(z_in.dtype).tiny)
    off = ((z_out - z_in).abs().mean(dim=1) / largest).clamp(max=torch.finfo(z_in.dtype).max)
    agree = ((off - shard["mape"]).abs() <= 1e-5 + 1e-3 * off).all().item()
    yield Line(f"{at}: MAPE", f"{shard['mape'].median():.6g}", f"{off.median():.6g}", bool(agree))


def scores_of(f: Detector, x: Tensor, size: int, device: torch.device) -> Tensor:
    """f of images, `size` at a time, on the CPU; it is given them on its own device, or else on `device`."""
    device = device_of(f) or device
    with torch.no_grad(), full_precision():
        parts = [f(block.clone().to(device)).detach().cpu() for block in x.split(size)]
    found = torch.cat(parts)
    return found if found.is_floating_point() else found.float()


def device_of(f: Detector) -> torch.device | None:
    """Where a detector, or the module whose method it is, computes; None where it has no tensors to tell by."""
    module = f if isinstance(f, torch.nn.Module) else getattr(f, "__self__", None)
    tensors = [*module.parameters(), *module.buffers()] if isinstance(module, torch.nn.Module) else []
    return tensors[0].device if tensors else None


def compared(what: str, claimed: Tensor, found: Tensor, known: Tensor, *, random: bool) -> Line:
    """Scores row by row, up to what another composition of batches may do; those of a random detector are not."""
    if random:
        return open_question(what, f"{len(claimed)} rows", "the detector uses random numbers")
    if claimed.shape != found.shape:
        return Line(what, f"{len(claimed)} rows", f"{len(found)} rows", False)
    agree = same_scores(claimed, found, known)
    worst = int((claimed.double() - found.double()).abs().nan_to_num(float("inf")).argmax())
    rows = (claimed, found) if agree else (claimed[worst : worst + 1], found[worst : worst + 1])
    said, again = (f"{t.double().mean():.6g}" for t in rows)
    return Line(what, said, again, agree)


def differ(a: Tensor, b: Tensor, known: Tensor) -> bool:
    """Whether two calls on the same images give other scores: a detector that uses random numbers."""
    finite = all(bool(part.isfinite().all()) for part in (a, b, known))
    return finite and not same_scores(a, b, known)
