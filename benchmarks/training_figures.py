"""Three figures of the papers on training, redrawn from our own runs on Fashion-MNIST.

    R=benchmarks/results
    python -m benchmarks.training_figures slopes --data FOLDER --cache CACHE --seed 0 --out $R/training_slopes.jsonl
    python -m benchmarks.training_figures quotient --data FOLDER --cache CACHE --seed 0 --out $R/training_quotient.jsonl
    python -m benchmarks.training_figures sweep --data FOLDER --cache CACHE --seed 0 --out $R/training_sweep.jsonl

slopes: energy loss and norm of the energy's gradient by epoch, with and without GReg: Fig. 3 of Sharifi et al. 2024.
quotient: ||grad_x log S_y(x; 1000)||_1, y the predicted class, and the mean distance of the largest logit from the
others, ID and OOD, with cross-entropy and with GQ: Fig. 1 and 2 of Jevnisek & Avidan 2022. sweep: accuracy, clean and
attacked AUROC of ODIN by lambda of GQ. Each writes its numbers and a PNG beside them. Data, network and schedules are
those of `fashion.py`; slopes trains on a fifth of the images and fine-tunes for longer.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn

from benchmarks import fashion, json_lines
from benchmarks.fashion import Method
from benchmarks.json_lines import Line
from oodattack.identity import versions
from oodattack.metrics import auroc
from oodattack.train import TrainingSet

EPOCHS, FIFTH = 20, 5  # of fine-tuning, as in Sharifi et al. 2024, on every fifth training image
TEMPERATURE = 1000.0
LAMBDAS = (0.1, 1.0, 10.0)
COLOURS = {"ID": "black", "mnist": "C0", "tinyimagenet": "C1", "textures": "C2", "noise": "C3"}


def slopes(args: argparse.Namespace) -> None:
    """A line an epoch of energy and of greg, which start from the same network."""
    fed, held_out = fashion.training_data(args)
    fed = TrainingSet(fed.x[::FIFTH], fed.y[::FIFTH], fed.aux)
    lines: list[Line] = []
    for method in [m for m in fashion.METHODS if m.title in ("energy", "greg")]:
        longer = replace(method, recipe=replace(method.recipe, epochs=EPOCHS))
        for point in fashion.network_of(longer, fed, held_out, args).record["curve"]:
            kept = {k: round(point[k], 5) for k in ("epoch", "energy", "energy_gradient", "accuracy")}
            lines.append({"benchmark": "training_slopes", "method": method.title, "seed": args.seed} | kept)
    for line in lines:
        json_lines.append(args.out, line | versions())
    draw_slopes(lines, args.out.with_suffix(".png"))


def draw_slopes(lines: list[Line], path: Path) -> None:
    """Two panels by epoch: the energy loss, and the norm of the energy's gradient."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), constrained_layout=True)
    titles = {"energy": "energy loss on training batches", "energy_gradient": "mean ||grad_x E||_2, held-out ID"}
    for method, style in (("energy", "C0--"), ("greg", "C1-")):
        own = [line for line in lines if line["method"] == method]
        for axis, key in zip(axes, titles, strict=True):
            axis.plot([line["epoch"] for line in own], [line[key] for line in own], style, label=method, marker=".")
            axis.set(xlabel="epoch of fine-tuning", title=titles[key], xticks=range(0, EPOCHS + 1, 5))
    axes[0].set_yscale("log")
    axes[0].legend()
    save(figure, path)


def quotient(args: argparse.Namespace) -> None:
    """A line a network, set and quantity: quantiles, and how often the OOD image of a pair has the lower value."""
    fed, held_out = fashion.training_data(args)
    x_id, ood = fashion.test_data(args)
    sets = {"ID": x_id, **ood}
    wanted = [m for m in fashion.METHODS if m.title in ("ce", "gq, authors' reading")]
    found = {}
    for method in wanted:
        network = fashion.network_of(method, fed, held_out, args).network
        for name, x in sets.items():
            found[method.title, name] = both_quantities(network, x)
    at = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    for (title, name), both in found.items():
        where = {"benchmark": "training_quotient", "method": title, "set": name, "n": args.n, "seed": args.seed}
        for quantity, values in both.items():
            quantiles = [float(f"{v:.4g}") for v in values.quantile(at)]
            more = {} if name == "ID" else {"below_id": round(1 - auroc(found[title, "ID"][quantity], values), 4)}
            json_lines.append(args.out, where | {"quantity": quantity, "quantiles": quantiles} | more | versions())
    draw_quotient(found, [m.title for m in wanted], args.out.with_suffix(".png"))


def both_quantities(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """L1 norm of the log-softmax gradient at T = 1000, and logit gap, a number an image each."""
    gradients, gaps = [], []
    for part in x.split(250):
        part = part.clone().requires_grad_()
        logits = network(part)
        chosen = (logits / TEMPERATURE).log_softmax(dim=1).max(dim=1).values
        (gradient,) = torch.autograd.grad(chosen.sum(), part)
        gradients.append(gradient.flatten(1).abs().sum(dim=1))
        largest = logits.max(dim=1, keepdim=True).values
        gaps.append(((largest - logits).sum(dim=1) / (logits.shape[1] - 1)).detach())
    return {"gradient": torch.cat(gradients), "gap": torch.cat(gaps)}


def draw_quotient(found: dict[tuple[str, str], dict[str, Tensor]], titles: list[str], path: Path) -> None:
    """Densities, a column a network: Fig. 1 above, Fig. 2 below. A row shares its axis."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(titles), figsize=(4 * len(titles), 6), sharex="row", constrained_layout=True)
    named = {"gradient": "||grad_x log S_y(x; 1000)||_1", "gap": "logit gap"}
    for row, (quantity, label) in zip(axes, named.items(), strict=True):
        top = max(both[quantity].quantile(0.98).item() for both in found.values())
        bins = torch.linspace(0, top, 60).tolist()
        for axis, title in zip(row, titles, strict=True):
            for name, colour in COLOURS.items():
                values = found[title, name][quantity].clamp(max=top).numpy()
                style = {"histtype": "step", "color": colour, "linewidth": 2 if name == "ID" else 1}
                axis.hist(values, bins=bins, density=True, label=name, **style)
            axis.set(title=title, xlabel=label, yscale="log")
    axes[0, 0].legend()
    save(figure, path)


def sweep(args: argparse.Namespace) -> None:
    """Lines as in `fashion`, of GQ networks with other lambdas, under one threat; those in the file are kept."""
    fed, held_out = fashion.training_data(args)
    x_id, ood = fashion.test_data(args)
    base = next(m for m in fashion.METHODS if m.title == "gq, authors' reading")
    for weight in LAMBDAS:
        method = Method(f"gq, lambda = {weight:g}", replace(base.recipe, weight=weight), "odin")
        where = {"benchmark": "training_sweep", "method": method.title, "n": args.n, "seed": args.seed}
        if json_lines.find(json_lines.read(args.out), where | {"benchmark": "training_sweep_training"}):
            continue
        done = fashion.network_of(method, fed, held_out, args)
        fashion.judge(done.network, method, where, done, x_id, ood, held_out, ("linf-8-255",), args)
    draw_sweep(json_lines.read(args.out), args.out.with_suffix(".png"))


def draw_sweep(lines: list[Line], path: Path) -> None:
    """Accuracy, clean and attacked AUROC (means over the OOD sets) by lambda."""
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.5), constrained_layout=True)
    of = lambda key, name: mean(line[key] for line in lines if line["method"] == name and key in line)  # noqa: E731
    named = {"accuracy": "ID accuracy", "auroc_clean": "clean AUROC, ODIN", "auroc": "AUROC under linf-8-255"}
    for (key, label), style in zip(named.items(), ("k:", "C0-", "C3-"), strict=True):
        axis.plot(LAMBDAS, [of(key, f"gq, lambda = {w:g}") for w in LAMBDAS], style, label=label, marker="o")
    axis.set(xscale="log", xlabel="lambda of GQ", ylim=(0, 1))
    axis.legend()
    save(figure, path)


def save(figure: object, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=120)
    plt.close(figure)


PARTS = {"slopes": slopes, "quotient": quotient, "sweep": sweep}


def main(arguments: list[str] | None = None) -> None:
    import matplotlib

    matplotlib.use("Agg")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    fashion.add_options(parser)
    args = parser.parse_args(arguments)
    if None in (args.data, args.cache, args.out):
        parser.error("--data, --cache and --out must be given")
    PARTS[args.part](args)


if __name__ == "__main__":
    main()
