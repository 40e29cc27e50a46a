"""Does a training objective buy robustness under attack? All of them on Fashion-MNIST: accuracy, clean, attacked.

    python -m benchmarks.fashion --data FOLDER --seed 0 --cache CACHE --out benchmarks/results/fashion.jsonl
    python -m benchmarks.fashion --table benchmarks/results/fashion.jsonl
    python -m benchmarks.fashion --plot benchmarks/results/fashion.jsonl

ID: Fashion-MNIST, 60,000 images to train on, `--n` of the 10,000 test images to judge on, from `--data-root` or the
Debian package dataset-fashion-mnist. OOD: MNIST, TinyImageNet and textures in grey at 28 x 28, and uniform noise, `--n`
images a set. Auxiliary outliers: CIFAR-100 in grey at 28 x 28, in no test set. The network is `small`, 20 thousand
weights. FOLDER holds mnist_test.npz and what `cifar_data.py` names.

One schedule for all: a network is trained from scratch (ce, gq, dos, openmix), or ce is fine-tuned (the others). It is
shorter than the papers'. "dos, random outliers" is DOS without its choice: what an outlier class buys by itself.
Networks are kept in CACHE; lines that the file holds are not repeated.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

import oodattack as oa
from benchmarks import cifar_data, json_lines
from benchmarks.json_lines import Line
from benchmarks.tables import markdown, newest
from oodattack import data
from oodattack.data.steps import apply_steps, fit_steps
from oodattack.identity import versions
from oodattack.train import RECIPES, HeldOut, Recipe, Setting, Trained, TrainingSet, trained
from oodattack.train.files import weights_of
from oodattack.train.measure import accuracy

MEASURED = ("epoch", "accuracy", "energy_gradient")
THREATS = ("linf-8-255", "l2-1", "flagship")
MEAN, STD = (0.2860,), (0.3530,)  # of Fashion-MNIST's training images
SCRATCH = {"epochs": 5, "batch_size": 128, "flip": True}
TUNED = {"epochs": 3, "batch_size": 128, "flip": True, "start": None}


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        title: of the row.
        recipe: how the network is trained, None for a published one.
        score: detector of `oodattack.detectors.DETECTORS` that its paper takes; "outlier-class" for log-odds of it.
        tuned: whether it starts from the network of ce.
    """

    title: str
    recipe: Recipe | None
    score: str
    tuned: bool = False


def scratch(name: str, score: str, title: str = "", **changes) -> Method:
    return Method(title or name, replace(RECIPES[name], **(SCRATCH | changes)), score)


def tuned(name: str, score: str) -> Method:
    return Method(name, replace(RECIPES[name], **TUNED), score, tuned=True)


METHODS = (
    scratch("ce", "energy"),
    scratch("ce", "odin", "ce, ODIN"),
    scratch("gq", "odin", "gq, authors' reading"),
    scratch("gq", "odin", "gq, printed reading", quotient="paper"),
    tuned("energy", "energy"),
    tuned("greg", "energy"),
    tuned("greg+", "energy"),
    tuned("oe", "msp"),
    tuned("poem", "energy"),
    scratch("dos", "outlier-class"),
    scratch("dos", "outlier-class", "dos, random outliers", sampler="random"),
    scratch("openmix", "outlier-class"),
)


def grey(x: Tensor) -> Tensor:
    """Images in grey at 28 x 28."""
    return apply_steps(x, fit_steps(1, 28))


def out_of_distribution(folder: Path, *, n: int, seed: int) -> dict[str, Tensor]:
    """OOD test images by name."""
    mnist = data.load(f"npz:{folder / 'mnist_test.npz'}", samples=n, seed=seed).x
    tiny = cifar_data.tinyimagenet(folder, n=n, validation=0, seed=seed)[0]
    textures = cifar_data.ood_images("textures", folder, n=n, seed=seed)
    noise = data.load("noise", samples=n, channels=1, size=28, seed=seed).x
    return {"mnist": mnist, "tinyimagenet": grey(tiny), "textures": grey(textures), "noise": noise}


def network_of(
    method: Method,
    fed: TrainingSet,
    held_out: HeldOut,
    args: argparse.Namespace,
    *,
    model: str = "small",
    start: Recipe = METHODS[0].recipe,
) -> Trained:
    """The trained network, from the cache where it is there; a tuned one starts from that of the recipe `start`."""
    same = {"cache": args.cache, "setting": Setting(model=model, mean=MEAN, std=STD, seed=args.seed)}
    ce = trained(start, fed, held_out, **same) if method.tuned else None
    return trained(method.recipe, fed, held_out, **same, weights=None if ce is None else weights_of(ce.network))


def training_data(args: argparse.Namespace) -> tuple[TrainingSet, HeldOut]:
    """Training images with auxiliary outliers, and the test images with their labels."""
    train, test = (data.load("fashion-mnist", part=p, seed=args.seed, root=args.data_root) for p in ("train", "test"))
    aux = grey(cifar_data.ood_images("cifar100", args.data, n=5000, seed=args.seed))
    return TrainingSet(train.x, train.y, aux), HeldOut(test.x, test.y)


def test_data(args: argparse.Namespace) -> tuple[Tensor, dict[str, Tensor]]:
    """`--n` ID test images, and as many of each OOD set."""
    test = data.load("fashion-mnist", part="test", seed=args.seed, root=args.data_root)
    return data.subset(test, args.n, seed=args.seed).x, out_of_distribution(args.data, n=args.n, seed=args.seed)


def run(args: argparse.Namespace) -> None:
    """One line a method and OOD set and threat."""
    fed, held_out = training_data(args)
    x_id, ood = test_data(args)
    for method in chosen(METHODS, args):
        where = {"benchmark": "fashion", "method": method.title, "n": args.n, "seed": args.seed}
        if json_lines.find(json_lines.read(args.out), where | {"benchmark": "fashion_training"}):
            continue
        done = network_of(method, fed, held_out, args)
        judge(done.network, method, where, done, x_id, ood, held_out, THREATS, args)


def judge(
    network: nn.Module,
    method: Method,
    where: Line,
    done: Trained | None,
    x_id: Tensor,
    ood: dict[str, Tensor],
    held_out: HeldOut,
    threats: tuple[str, ...],
    args: argparse.Namespace,
) -> None:
    """A line for each OOD set and threat, and then one about the network."""
    net = network if isinstance(network, oa.Classifier) else oa.Classifier(network)
    nothing = oa.detectors.Fit(x_id[:0], held_out.y[:0])
    detector: nn.Module = oa.detectors.DETECTORS[method.score].build(net, nothing)
    report = oa.evaluate(detector.eval(), id=x_id, ood=ood, threats=list(threats), seed=args.seed)
    for result in report.results:
        clean = {"auroc_clean": result.clean.auroc, "fpr_clean": result.clean.fpr_at_95_id_tpr}
        left = {"auroc": result.attacked.auroc, "low": result.attacked.auroc_low, "high": result.attacked.auroc_high}
        found = {k: round(v, 4) for k, v in (clean | left).items()} | {"verdict": result.verdict}
        json_lines.append(args.out, where | {"score": method.score, "ood": result.ood, "threat": result.threat} | found)
    curve = [] if done is None else [{k: round(line[k], 5) for k in MEASURED} for line in done.record["curve"]]
    known = accuracy(net, held_out, classes=10) if done is None else done.accuracy
    facts = {"accuracy": round(known, 4), "curve": curve} | versions()
    json_lines.append(args.out, where | {"benchmark": f"{where['benchmark']}_training"} | facts)


def table(lines: list[Line], benchmark: str = "fashion", threats: tuple[str, ...] = THREATS) -> str:
    """A row a method, means over OOD sets and seeds: accuracy, clean AUROC and FPR95, AUROC left of each threat."""
    training = newest([line for line in lines if line["benchmark"] == f"{benchmark}_training"], ("method", "seed"))
    lines = newest([line for line in lines if line["benchmark"] == benchmark], ("method", "ood", "threat", "seed"))
    rows = []
    for method in dict.fromkeys(line["method"] for line in training):
        own = [line for line in lines if line["method"] == method]
        networks = [line for line in training if line["method"] == method]
        mean = lambda key, some: f"{sum(line[key] for line in some) / len(some):.3f}"  # noqa: E731
        attacked = [mean("auroc", [line for line in own if line["threat"] == threat]) for threat in threats]
        head = [f"{method} ({own[0]['score']})", str(len(networks)), mean("accuracy", networks)]
        rows.append([*head, mean("auroc_clean", own), mean("fpr_clean", own), *attacked])
    names = ["objective (score)", "seeds", "ID accuracy", "clean AUROC", "clean FPR95", *threats]
    return markdown(names, rows)


def plot(lines: list[Line], path: Path) -> None:
    """Mean norm of the energy's gradient on held-out ID images by epoch: Fig. 3 of Sharifi et al. 2024, of our runs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = newest([line for line in lines if line["benchmark"] == "fashion_training"], ("method", "seed"))
    figure, axis = plt.subplots(figsize=(7, 4), constrained_layout=True)
    styles = {"ce": "k:", "energy": "C0-", "greg": "C1-", "greg+": "C2-", "poem": "C3--", "oe": "C4--"}
    for line in lines:
        if line["method"] in styles and line["seed"] == lines[0]["seed"]:
            values = [point["energy_gradient"] for point in line["curve"]]
            axis.plot(range(1, len(values) + 1), values, styles[line["method"]], label=line["method"], marker=".")
    axis.set(xlabel="epoch (ce: from scratch; others: of fine-tuning)", ylabel="mean norm of the energy's gradient")
    axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of a measurement."""
    parser.add_argument("--data", type=Path, help="folder of the arrays")
    parser.add_argument("--data-root", type=Path, help="folder of downloaded sets")
    parser.add_argument("--n", type=int, default=500, help="ID images, and OOD images a set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="folder of trained networks")
    parser.add_argument("--out", type=Path, help="JSON lines, appended to")


def add_methods(parser: argparse.ArgumentParser) -> None:
    """The option that leaves rows out."""
    parser.add_argument(
        "--methods", type=lambda text: text.split(";"), help="titles of rows, parted by ; (default: all)"
    )


def chosen(methods: Iterable[Method], args: argparse.Namespace) -> list[Method]:
    """The methods that were asked for."""
    return [method for method in methods if method.title in (args.methods or [method.title])]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="print the table of these lines")
    parser.add_argument("--plot", type=Path, help="draw gradient norms of these lines, as PNG beside them")
    add_options(parser)
    add_methods(parser)
    args = parser.parse_args(arguments)
    if args.table:
        print(table(json_lines.read(args.table)))
    elif args.plot:
        plot(json_lines.read(args.plot), args.plot.with_suffix(".png"))
    elif None in (args.data, args.cache, args.out):
        parser.error("--data, --cache and --out must be given to measure")
    else:
        run(args)


if __name__ == "__main__":
    main()
