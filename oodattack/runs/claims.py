"""The numbers of a report, computed again from the saved scores."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from oodattack.certificates import Certificates
from oodattack.diagnose import Indicators, verdict
from oodattack.metrics import auroc
from oodattack.numbers import accepted, crossing, deployed, matched, numbers
from oodattack.report import Metrics, Result
from oodattack.report.record import Key, in_words
from oodattack.runs.evidence import Cell
from oodattack.runs.images import Inputs
from oodattack.runs.line import Line, open_question, told
from oodattack.threat import Suite, ThreatModel, covers, direction, limits_of, members_of, other_goal, whole_box

Shard = dict[str, Tensor]

STOPPED = ("queries spent", "target reached", "ball binds", "stationary", "step too small")  # as in `attack`
OFF = 0.002  # AUROC may be, by rounding in batches of another size


def of_cell(
    where: str,
    inputs: Inputs,
    result: Result,
    cell: Cell,
    threat: ThreatModel | Suite,
    before: dict[tuple[str, str], Metrics],
) -> Iterator[Line]:
    """Every number of one cell that follows from its rows; how the search itself went does not.

    Args:
        where: what lines begin with.
        inputs: images and scores before any attack.
        result: what is claimed.
        cell: where its rows are.
        threat: of the cell.
        before: numbers of clean scores, see `Afresh`; those of this detector and OOD set are added.
    """
    limits, sides = limits_of(threat), {side.images: whole(inputs, side.shards) for side in cell.sides}
    ood, own_id = sides.get(f"ood/{cell.ood}"), sides.get("id")
    wanted = {name for name, is_in in ((f"ood/{cell.ood}", limits.attacks_ood), ("id", limits.attacks_id)) if is_in}
    yield told(f"{where}: attacked sides", sorted(wanted), sorted(sides))
    yield told(f"{where}: direction", result.direction, direction(threat))
    if "whole_box" in result.model_fields_set:  # which older reports do not have
        yield told(f"{where}: whole box", result.whole_box, whole_box(threat))
    clean = inputs.clean(cell.detector, "id"), inputs.clean(cell.detector, f"ood/{cell.ood}")
    scores = pair(clean, own_id, ood, "scores")
    if (key := (cell.detector, cell.ood)) not in before:
        before[key] = numbers(*clean)
    yield from of_record(f"{where}: clean", result.clean, before[key])
    yield from of_record(f"{where}: attacked", result.attacked, numbers(*scores))
    yield from of_record(f"{where}: in 8 bits", result.attacked_8bit, numbers(*pair(clean, own_id, ood, "scores_8bit")))
    yield from of_record(f"{where}: deployed", result.deployed, deployed(clean[0], *scores))
    mape = ood.get("mape") if ood else None
    yield from of_record(f"{where}: MAPE", result.mape, None if mape is None else matched(mape))
    nearest = ood.get("crossing") if ood else None
    yield from of_record(
        f"{where}: crossing", result.crossing, None if nearest is None else crossing(clean[0], nearest)
    )
    rows = list(sides.values())
    yield told(f"{where}: distance", result.distance, max(side["distance"].max().item() for side in rows))
    queries = torch.cat([side["queries"] for side in rows])
    yield told(f"{where}: queries", result.queries, queries.double().mean().item())
    matches = any(m.aim == "match" for m in members_of(threat))
    yield told(f"{where}: stopped", result.stopped, stopped(rows) if matches else None)
    unfit = sum(int((side["non_finite"] > 0).sum()) for side in rows)
    yield told(f"{where}: rows with numbers that were not finite", result.non_finite_rows, unfit)
    yield from of_indicators(where, result, threat, rows, int(queries.sum()))


def stopped(rows: list[Shard]) -> dict[str, float]:
    """Share of rows by the reason for which their search ended."""
    codes = torch.cat([side["stopped"] for side in rows])
    shares = {reason: (codes == i).double().mean().item() for i, reason in enumerate(STOPPED)}
    return {reason: share for reason, share in shares.items() if share}


def of_order(
    where: str, result: Result, clean: tuple[Tensor, Tensor], own_id: Shard | None, ood: Shard | None
) -> Iterator[Line]:
    """AUROC as claimed is that of scores found afresh: each may be off by little, all of them not in one direction."""
    for what, claimed, scores in (
        ("clean", result.clean, clean),
        ("attacked", result.attacked, pair(clean, own_id, ood, "scores")),
        ("in 8 bits", result.attacked_8bit, pair(clean, own_id, ood, "scores_8bit")),
    ):
        again = auroc(*scores)
        agree = abs(claimed.auroc - again) <= OFF
        yield Line(f"{where}: {what} auroc afresh", f"{claimed.auroc:.6g}", f"{again:.6g}", agree)


def of_box(
    inputs: Inputs,
    result: Result,
    cell: Cell,
    threats: Mapping[str, ThreatModel | Suite],
    known: dict[Key, Shard],
) -> Line:
    """What the whole box left is what the run's own cells say, of the sides that this one attacks.

    Args:
        inputs: images and scores before any attack.
        result: what is claimed.
        cell: of the result.
        threats: of the run, by name.
        known: scores of cells with the whole box; those that are read are added.
    """
    what, claimed = f"{result.where}: full_box_auroc", result.indicators["full_box_auroc"]
    threat, ood = threats[result.threat], f"ood/{cell.ood}"
    start = limits_of(threat).start  # an OOD set and start images may have one name: they are sets apart
    beside = {name: t for name, t in threats.items() if limits_of(t).start == start and covers(t, threat)}
    boxes = {name for name, other in beside.items() if whole_box(other)}
    parts = (member for name, other in beside.items() if name not in boxes for member in members_of(other))
    if any(map(whole_box, parts)):
        return open_question(what, claimed, "a member of a suite has the whole box")
    limits, left = limits_of(threat), []
    clean = inputs.clean(cell.detector, "id"), inputs.clean(cell.detector, ood)
    for box in (
        c for c in inputs.evidence.cells if c.threat in boxes and (c.detector, c.ood) == (cell.detector, cell.ood)
    ):
        if box.key not in known:
            known[box.key] = {side.images: whole(inputs, side.shards)["scores"] for side in box.sides}
        on_id = known[box.key]["id"] if limits.attacks_id else clean[0]
        left.append(auroc(on_id, known[box.key][ood] if limits.attacks_ood else clean[1]))
    return told(what, claimed, min(left, default=None))


def of_bounds(
    inputs: Inputs, result: Result, cell: Cell, threat: ThreatModel | Suite, detector: Any, certificates: Certificates
) -> Iterator[Line]:
    """What is certified, from bounds of the saved images' scores."""
    where = f"{in_words(cell.key)}: certified"
    sides = {side.images: whole(inputs, side.shards) for side in cell.sides}
    names = ("id", f"ood/{cell.ood}")
    clean = inputs.clean(cell.detector, names[0]), inputs.clean(cell.detector, names[1])
    sets = [(name, torch.cat(list(inputs.blocks(name)))) for name in names]
    attacked = pair(clean, sides.get(names[0]), sides.get(names[1]), "scores")
    found = certificates.of(detector, cell.detector, threat, sets, clean, attacked)
    claimed, again = (
        {} if record is None or isinstance(record, str) else record.model_dump(exclude={"seconds"})
        for record in (result.certified, found)
    )
    yield told(where, result.certified_auroc, again.get("auroc"))
    yield told(f"{where}: a reason why not", result.uncertified is not None, not again)
    for field in claimed | again:
        yield told(f"{where} {field}", claimed.get(field), again.get(field))


def of_indicators(
    where: str, result: Result, threat: ThreatModel | Suite, rows: list[Shard], queries: int
) -> Iterator[Line]:
    """The indicators that the threat and rows tell, and the verdict that all of them lead to."""
    claimed = result.indicators
    bad = sum(int(side["non_finite"].sum()) for side in rows)
    yield told(f"{where}: non_finite_share", claimed["non_finite_share"], bad / max(queries, 1))
    if claimed["clean_best_share"] is not None:
        stuck = torch.cat([side["clean_best"] for side in rows]).double().mean().item()
        yield told(f"{where}: clean_best_share", claimed["clean_best_share"], stuck)
    before, after = accepted(rows[0]["crossing"]) if direction(threat) == "cross" else (None, None)
    for name, again in (
        ("other_goal", other_goal(threat)),
        ("id_against_id", limits_of(threat).start == "id"),
        ("accepted_before", before),
        ("accepted_after", after),
    ):
        yield told(f"{where}: {name}", claimed[name], again)
    found = Indicators(**{name: value for name, value in claimed.items() if name in Indicators._fields})  # type: ignore[arg-type]
    says = verdict(result.clean.auroc, result.attacked.auroc, found)
    if claimed.keys() == set(Indicators._fields):
        yield told(f"{where}: verdict", (result.verdict, result.reason), tuple(says))
    else:  # an older report: numbers mean the same, what makes one doubt a search may not
        yield told(f"{where}: broken", result.verdict == "broken", says[0] == "broken")
        yield open_question(f"{where}: verdict", result.verdict, "its indicators are not those of this version")


def of_record(where: str, claimed: object, found: object) -> Iterator[Line]:
    """The fields of two records, one a line."""
    a, b = (None if record is None else record.model_dump() for record in (claimed, found))  # type: ignore[attr-defined]
    if a is None or b is None:
        yield told(where, a, b)
        return
    for field in a:
        yield told(f"{where} {field}", a[field], b[field])


def pair(clean: tuple[Tensor, Tensor], own_id: Shard | None, ood: Shard | None, field: str) -> tuple[Tensor, Tensor]:
    """Scores of both sides after an attack: those of a side that was left alone are the clean ones."""
    return (own_id[field] if own_id else clean[0], ood[field] if ood else clean[1])


def whole(inputs: Inputs, files: list[str]) -> Shard:
    """What is saved of all rows of a side, without the images."""
    parts = [
        {name: t for name, t in inputs.tensors(file).items() if name not in ("x_adv", "x_8bit", "start")}
        for file in files
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
