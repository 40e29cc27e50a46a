"""Markdown tables from JSON lines; with `--into`, written between the markers of a file.

    python -m benchmarks.tables strength.jsonl step_cost.jsonl early.jsonl --into benchmarks/README.md

A marker is a pair of lines, `<!-- NAME -->` and `<!-- end NAME -->`, NAME as in `TABLES`. Of lines that say the same
thing twice the newest counts; lines of attacks that failed are named below their table.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from benchmarks import json_lines
from benchmarks.json_lines import Line


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def newest(lines: list[Line], fields: tuple[str, ...]) -> list[Line]:
    """The newest of all lines that agree in `fields`, in the order of first appearance."""
    found: dict[tuple, Line] = {}
    for line in lines:
        found[tuple(line.get(field) for field in fields)] = line
    return list(found.values())


def strength(lines: list[Line]) -> str:
    """A row a cell, a column an attack: AUROC left (passes a row). The lowest AUROC of a cell is bold.

    Of an attack on a detector and on its surrogate, the lower of the two counts.
    """
    fields = ("network", "detector", "ood", "threat", "n", "seed", "queries")
    lines = newest(lines, (*fields, "attack", "on", "suite"))
    failed = [line for line in lines if "failed" in line]
    best: dict[tuple, dict[str, Line]] = {}
    for line in lines:
        cell = best.setdefault(tuple(line.get(field) for field in fields), {})
        if "failed" not in line and line["auroc"] <= cell.get(line["attack"], line)["auroc"]:
            cell[line["attack"]] = line
    attacks = list(dict.fromkeys(attack for cell in best.values() for attack in cell))
    most = max((cell[4] for cell in best), default=0)
    came = [list(dict.fromkeys(values)) for values in zip(*best, strict=True)]  # in what order
    cells = sorted(best, key=lambda cell: [came[i].index(cell[i]) for i in (3, 0, 1, 2, 4, 5, 6)])
    rows = [_strength_row(cell, best[cell], attacks, most) for cell in cells if best[cell]]
    table = markdown(["detector, OOD, threat", "clean", *attacks], rows)
    size = f"{most} images a side where no other number is named"
    return f"AUROC left (passes a row), {size}. {_least(best, most)}\n\n{table}{_failures(failed)}"


def _least(best: dict[tuple, dict[str, Line]], most: int) -> str:
    """In how many cells nobody leaves less than `ood-aa`, and who does in the others."""
    beside = {cell: found for cell, found in best.items() if cell[4] == most and "ood-aa" in found and len(found) > 1}
    lower = {cell: min(found.values(), key=lambda line: line["auroc"]) for cell, found in beside.items()}
    lower = {cell: line for cell, line in lower.items() if line["auroc"] < beside[cell]["ood-aa"]["auroc"]}
    said = [f"{line['attack']} {line['auroc']:.5f} ({_name(cell)})" for cell, line in lower.items()]
    but = f"; less is left by {', '.join(said)}" if said else ""
    most_cells = f"{len(beside) - len(lower)} of the {len(beside)} that have rivals"
    return f"`ood-aa` leaves least, or as little, in {most_cells}{but}."


def _name(cell: tuple) -> str:
    network, detector, ood, threat, _n, _seed, queries = cell
    return f"{detector}@{network}, {ood}, {threat}{'' if queries is None else f', {queries} queries'}"


def _strength_row(cell: tuple, found: dict[str, Line], attacks: list[str], most: int) -> list[str]:
    n = cell[4]
    lowest = min(line["auroc"] for line in found.values())

    def entry(attack: str) -> str:
        if attack not in found:
            return "-"
        value = f"{found[attack]['auroc']:.4f}"
        value = f"**{value}**" if found[attack]["auroc"] == lowest else value
        return f"{value} ({found[attack]['passes']:.0f})"

    clean = f"{next(iter(found.values()))['auroc_clean']:.3f}"
    few = f", {n} images" if n < most else ""
    return [f"{_name(cell)}{few}", clean, *[entry(attack) for attack in attacks]]


def _failures(failed: list[Line]) -> str:
    def attack(line: Line) -> str:
        return f"{line['attack']} on the surrogate" if line.get("on") == "surrogate" else line["attack"]

    said = [f"- {attack(line)}, {line['detector']}@{line['network']}: {line['failed']}" for line in failed]
    return "\n\nFailed:\n\n" + "\n".join(dict.fromkeys(said)) if said else ""


def step_cost(lines: list[Line]) -> str:
    """A row a contestant: ratio to the bare loop, and the AUROC where it was measured."""
    left = {line["attack"]: line for line in lines if line["benchmark"] == "step_strength"}
    rows = []
    for line in newest([line for line in lines if line["benchmark"] == "step_cost"], ("attack",)):
        ratio = f"{line['ratio']:.2f} [{line['ratio_min']:.2f}..{line['ratio_max']:.2f}]"
        auroc = f"{left[line['attack']]['auroc']:.3f}" if line["attack"] in left else "-"
        rows.append([line["attack"], ratio, f"{line['ms_per_step']:.0f}", auroc])
    return markdown(["attack", "ratio to bare", "ms a step", "AUROC left"], rows)


def early_rows(lines: list[Line]) -> str:
    """A row a threat and device: what easy rows save."""
    lines = newest(lines, ("threat", "n", "device"))
    head = ["threat, images, device", "wall time", "search time", "queries", "queries when all are hard"]
    rows = []
    for line in lines:
        ratios = [f"{line['ratio'][key]:.2f}" for key in ("seconds", "search_seconds", "queries")]
        where = f"{line['threat']}, {line['n']}, {line['device']}"
        rows.append([where, *ratios, f"{line['hard']['queries']:.0f}"])
    return markdown(head, rows)


def memory(lines: list[Line]) -> str:
    """A row a number of images: peak memory, and what a further image costs."""
    growth = [line for line in lines if line["benchmark"] == "memory_growth"]
    sizes = newest([line for line in lines if line["benchmark"] == "peak_memory"], ("n",))
    rows = [[str(s["n"]), *[f"{s[key]:.0f}" for key in ("images_mib", "before_mib", "peak_mib")]] for s in sizes]
    table = markdown(["images", "images, MiB", "before, MiB", "peak, MiB"], rows)
    return table + (f"\n\nA further image costs {growth[-1]['image_copies']:.1f} images." if growth else "")


def paper_clean(lines: list[Line]) -> str:
    """A row a detector, a column an OOD set: AUROC and, in brackets, FPR95 of ID TPR; cost of an image."""
    lines = newest(lines, ("network", "detector", "ood"))
    sets = list(dict.fromkeys(line["ood"] for line in lines))
    rows = []
    for key in dict.fromkeys((line["detector"], line["network"]) for line in lines):
        own = {line["ood"]: line for line in lines if (line["detector"], line["network"]) == key}
        cells = [f"{own[k]['auroc']:.3f} ({own[k]['fpr_at_95_id_tpr']:.2f})" if k in own else "-" for k in sets]
        rows.append([key[0], *cells, f"{next(iter(own.values()))['ms_per_image']:.1f}"])
    counts = sorted({f"{line['n']} images a set, {line['network']}" for line in lines})
    return f"AUROC (FPR95), {', '.join(counts)}.\n\n{markdown(['detector', *sets, 'ms an image'], rows)}"


def paper_attacked(lines: list[Line]) -> str:
    """A row a detector and OOD set: AUROC clean, attacked and in the whole box; passes, verdict, what was followed."""
    lines = newest(lines, ("network", "detector", "ood"))
    head = ["detector, OOD", "clean", "ood-aa", "whole box", "passes", "verdict", "attacked through"]
    rows = []
    for line in lines:
        numbers = [f"{line[key]:.3f}" for key in ("auroc_clean", "auroc", "whole_box")]
        order = "" if line["rank_correlation"] is None else f" ({line['rank_correlation']:.3f})"
        through = "its score" if line["surrogate"] is None else line["surrogate"].replace("|", "\\|") + order
        name = f"{line['detector']}, {line['ood']}"
        rows.append([name, *numbers, f"{line['passes']:.0f}", line["verdict"], through])
    counts = sorted({f"{line['n']} images a side, {line['network']}" for line in lines})
    return f"AUROC, {', '.join(counts)}.\n\n{markdown(head, rows)}"


def paper_matching(lines: list[Line]) -> str:
    """A row a case: AUROC before and after both searches beside the published one, and the median MAPE."""
    lines = newest(lines, ("case", "search"))
    rows = []
    for case in dict.fromkeys(line["case"] for line in lines):
        own = {line["search"]: line for line in lines if line["case"] == case}
        some = next(iter(own.values()))
        cells = []
        for search in ("algorithm-1", "lbfgs"):
            line = own.get(search)
            off = "" if line is None or line["mape_median"] is None else f" ({100 * line['mape_median']:.2g} %)"
            cells.append("-" if line is None else f"{line['auroc']:.3f}{off}")
        published = "-" if some["published"] is None else f"{some['published']:.3f}"
        rows.append([case.replace("|", "\\|"), some["start"], f"{some['auroc_clean']:.3f}", *cells, published])
    counts = sorted({f"{line['n']} pairs, {line['queries']} queries" for line in lines})
    head = ["detector", "start", "clean", "Algorithm 1", "lbfgs", "published"]
    return f"AUROC (median MAPE), {', '.join(counts)}.\n\n{markdown(head, rows)}"


def paper_si(lines: list[Line]) -> str:
    """A row a pair and OOD set: both AUROCs and the interval of their difference."""
    rows = []
    for line in lines:
        (ours, a), (theirs, b) = line["auroc"].items()
        interval = f"{line['difference']:+.4f} [{line['low']:+.4f}..{line['high']:+.4f}]"
        rows.append([f"{ours} - {theirs}", line["ood"], f"{a:.4f}", f"{b:.4f}", interval])
    return markdown(["pair", "OOD", "first", "second", "difference"], rows)


def many_rows(lines: list[Line]) -> str:
    """Peak memory by number of rows, and what a further row costs."""
    growth = [line for line in lines if line["benchmark"] == "rows_growth"][-1:]
    sizes = newest([line for line in lines if line["benchmark"] == "rows_memory"], ("n",))
    rows = [[f"{s['n']}", f"{s['images_mib']:.0f}", f"{s['peak_mib']:.0f}"] for s in sizes]
    table = markdown(["rows a side", "both sides, MiB", "peak, MiB"], rows)
    for line in growth:
        table += f"\n\nFrom {line['n'][0]} to {line['n'][1]} rows a side a row costs {line['bytes_a_row']} bytes; "
        table += f"an image is {line['image']}."
    return table


def processes(lines: list[Line]) -> str:
    """Two processes over one: wall time of the run, and of its searches."""
    ratios = {what: sorted(line["ratio"][what] for line in lines) for what in ("seconds", "search_seconds")}
    words = {"seconds": "whole run", "search_seconds": "searches"}
    rows = [[words[what], f"{r[len(r) // 2]:.2f} [{r[0]:.2f}..{r[-1]:.2f}]", str(len(r))] for what, r in ratios.items()]
    return markdown(["wall time, two processes over one", "median [range]", "rounds"], rows)


def bounds(lines: list[Line]) -> str:
    """A row a network, detector, radius and attacked side: certified, attacked, clean."""
    rows = []
    for line in newest(lines, ("network", "detector", "eps", "sides")):
        name = f"{line['detector']}@{line['network']}"
        numbers = [f"{line[key]:.3f}" for key in ("clean", "certified_intervals", "certified", "attacked", "undecided")]
        rows.append([name, f"{line['eps']:g}", line["sides"], *numbers, str(line["passes"])])
    head = ["detector", "linf", "attacked side", "clean", "intervals", "certified", "attacked", "undecided", "passes"]
    return markdown(head, rows)


def fashion_bounds(lines: list[Line]) -> str:
    """A row a network, radius and OOD set, OOD images hidden: clean, certified, attacked; accuracy."""
    rows = []
    for line in newest([line for line in lines if line["sides"] == "hide"], ("network", "eps", "ood")):
        numbers = [f"{line[key]:.3f}" for key in ("clean", "certified", "attacked", "undecided", "accuracy")]
        rows.append([f"{line['network']} ({line['detector']})", f"{line['eps']:g}", line["ood"], *numbers])
    head = ["objective (score)", "linf", "OOD", "clean", "certified", "attacked", "undecided", "ID accuracy"]
    return markdown(head, rows)


def sweep(lines: list[Line]) -> str:
    """A row a lambda of GQ; see `training_figures`."""
    from benchmarks.fashion import table

    return table(lines, "training_sweep", ("linf-8-255",))


def tuning(lines: list[Line]) -> str:
    """A row a training objective on CIFAR-10; see `cifar_tuning`."""
    from benchmarks.cifar_tuning import THREATS
    from benchmarks.fashion import table

    return table(lines, "cifar_tuning", THREATS)


def fashion_table(lines: list[Line]) -> str:
    """A row a training objective; see `fashion`, which imports this file."""
    from benchmarks.fashion import table

    return table(lines)


TABLES: dict[str, tuple[tuple[str, ...], Callable[[list[Line]], str]]] = {
    "attack_strength": (("attack_strength",), strength),
    "step_cost": (("step_cost", "step_strength"), step_cost),
    "early_rows": (("early_rows",), early_rows),
    "memory": (("peak_memory", "memory_growth"), memory),
    "paper_clean": (("paper_clean",), paper_clean),
    "paper_attacked": (("paper_attacked",), paper_attacked),
    "paper_matching": (("paper_matching",), paper_matching),
    "paper_si": (("paper_si",), paper_si),
    "many_rows": (("rows_memory", "rows_growth"), many_rows),
    "processes": (("rows_processes",), processes),
    "bounds": (("bounds",), bounds),
    "fashion_bounds": (("fashion_bounds",), fashion_bounds),
    "fashion": (("fashion", "fashion_training"), fashion_table),
    "cifar_tuning": (("cifar_tuning", "cifar_tuning_training"), tuning),
    "training_sweep": (("training_sweep", "training_sweep_training"), sweep),
}


def tables(lines: list[Line]) -> dict[str, str]:
    """Name -> table, of those for which there are lines."""
    chosen = {name: [line for line in lines if line["benchmark"] in kinds] for name, (kinds, _) in TABLES.items()}
    return {name: TABLES[name][1](own) for name, own in chosen.items() if own}


def insert(text: str, name: str, table: str) -> str:
    """The text with a table between its markers.

    Raises:
        ValueError: the text does not have the pair of markers exactly once.
    """
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    text, count = pattern.subn(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", text)
    if count != 1:
        raise ValueError(f"the file must hold the markers of {name!r} once, got {count} pairs. Add or drop them.")
    return text


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", help="JSON lines")
    parser.add_argument("--into", type=Path, help="Markdown file with markers; without it the tables are printed")
    args = parser.parse_args(arguments)
    found = tables([line for path in args.files for line in json_lines.read(path)])
    if not args.into:
        print("\n\n".join(f"## {name}\n\n{table}" for name, table in found.items()))
        return
    text = args.into.read_text(encoding="utf-8")
    for name, table in found.items():
        text = insert(text, name, table)
    args.into.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
