"""The same question as `fashion`, for a published network: ResNet-20 on CIFAR-10, fine-tuned on 10,000 images.

    R=benchmarks/results
    python -m benchmarks.cifar_tuning --data FOLDER --n 200 --seed 0 --cache CACHE --out $R/cifar_tuning.jsonl
    python -m benchmarks.cifar_tuning --table $R/cifar_tuning.jsonl

OOD: textures, noise, and those halves of CIFAR-100 and TinyImageNet that are not the auxiliary outliers. Normalisation
is that of the published weights. FOLDER as in `cifar_data.py`.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import cifar_data, cifar_networks, json_lines
from benchmarks.fashion import Method, judge, table
from oodattack.models.weights import read_weights
from oodattack.train import RECIPES, HeldOut, Setting, Trained, TrainingSet, trained

NETWORK = cifar_networks.NETWORKS["resnet20"]
THREATS = ("linf-8-255",)
HALF = 2500  # images of CIFAR-100 and of TinyImageNet, each, that are auxiliary
TUNED = {"start": None, "epochs": 3, "lr": 1e-3, "batch_size": 128, "shift": 4, "flip": True, "augment_aux": True}


def tuned(name: str, score: str = "energy") -> Method:
    return Method(name, replace(RECIPES[name], **TUNED), score, tuned=True)


METHODS = (
    Method("published", None, "energy"),
    Method("published, ODIN", None, "odin"),
    tuned("ce"),
    tuned("gq", "odin"),
    tuned("energy"),
    tuned("greg"),
    tuned("greg+"),
)


def halves(folder: Path, *, n: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Auxiliary outliers, and OOD test images by name; no image is in both."""
    tiny, aux_tiny = cifar_data.tinyimagenet(folder, n=n, validation=HALF, seed=seed)
    both = cifar_data.ood_images("cifar100", folder, n=5000, seed=seed)
    ood = {name: cifar_data.ood_images(name, folder, n=n, seed=seed) for name in ("textures", "noise")}
    return torch.cat([both[-HALF:], aux_tiny]), ood | {"cifar100": both[:n], "tinyimagenet": tiny}


def network_of(method: Method, fed: TrainingSet, held_out: HeldOut, args: argparse.Namespace) -> Trained | None:
    """The fine-tuned network, from the cache where it is there; None for the published one."""
    if method.recipe is None:
        return None
    setting = Setting(model=NETWORK.model, mean=NETWORK.mean, std=NETWORK.std, seed=args.seed)
    path = next(p for p in (args.data / NETWORK.file, args.data / "networks" / NETWORK.file) if p.exists())
    return trained(method.recipe, fed, held_out, setting=setting, cache=args.cache, weights=read_weights(path))


def run(args: argparse.Namespace) -> None:
    """One line a method and OOD set and threat."""
    id = cifar_data.id_images(args.data, n=args.n, seed=args.seed)
    held_out = cifar_data.id_images(args.data, n=1000, seed=args.seed + 1)
    aux, ood = halves(args.data, n=args.n, seed=args.seed)
    fed = TrainingSet(*cifar_data.fit_images(args.data, seed=args.seed), aux)
    measured = HeldOut(held_out.x, held_out.y)
    for method in METHODS:
        where = {"benchmark": "cifar_tuning", "method": method.title, "n": args.n, "seed": args.seed}
        if json_lines.find(json_lines.read(args.out), where | {"benchmark": "cifar_tuning_training"}):
            continue
        done = network_of(method, fed, measured, args)
        net = cifar_networks.load("resnet20", args.data) if done is None else done.network
        judge(net, method, where, done, id.x, ood, measured, THREATS, args)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="print the table of these lines")
    parser.add_argument("--data", type=Path, help="folder of the arrays and networks")
    parser.add_argument("--n", type=int, default=200, help="ID images, and OOD images a set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="folder of trained networks")
    parser.add_argument("--out", type=Path, help="JSON lines, appended to")
    args = parser.parse_args(arguments)
    if args.table:
        print(table(json_lines.read(args.table), "cifar_tuning", THREATS))
    elif None in (args.data, args.cache, args.out):
        parser.error("--data, --cache and --out must be given to measure")
    else:
        run(args)


if __name__ == "__main__":
    main()
