"""Does training with intervals close the sandwich? Clean, attacked and certified AUROC on Fashion-MNIST.

    R=benchmarks/results
    python -m benchmarks.fashion_bounds --data FOLDER --seed 0 --n 50 --cache CACHE --out $R/fashion_bounds.jsonl

Networks of one architecture, `plain`: with cross-entropy, OE, GReg, and OE certified by intervals (ibp-oe, at two
radii). ID, OOD and auxiliary sets are those of `fashion.py`; the attacked side hides OOD images, attacks and
checks are those of `bounds.py`. Networks are kept in CACHE; lines that the file holds are not repeated.
"""

import argparse
from dataclasses import replace

from benchmarks import bounds, fashion, json_lines
from benchmarks.fashion import Method
from oodattack.train import RECIPES

RADII = (0.03, 0.1)
TRAINED = (0.03, 0.1)  # radii of ibp-oe
ADAM = {"optimiser": "adam", "weight_decay": 0.0, "batch_size": 128, "lr": 1e-3}
CE = replace(RECIPES["ce"], epochs=10, **ADAM)
TUNED = ADAM | {"epochs": 5, "start": None, "lr": 3e-4}
METHODS = (
    *(
        Method(f"ibp-oe at {eps:g}", replace(RECIPES["ibp-oe"], **(ADAM | {"epochs": 12, "eps": eps})), "msp")
        for eps in TRAINED
    ),
    Method("ce", CE, "msp"),
    Method("oe", replace(RECIPES["oe"], **TUNED), "msp", tuned=True),
    Method("greg", replace(RECIPES["greg"], **TUNED), "energy", tuned=True),
)


def run(args: argparse.Namespace) -> None:
    """Lines as in `bounds`, with the OOD set and the accuracy; all networks at one radius before the next."""
    fed, held_out = fashion.training_data(args)
    x_id, ood = fashion.test_data(args)
    for eps in RADII:
        for method in fashion.chosen(METHODS, args):
            done = fashion.network_of(method, fed, held_out, args, model="plain", start=CE)
            detector = bounds.BUILD[method.score](done.network, None).eval()
            for name, x_ood in ood.items():
                where = {"benchmark": "fashion_bounds", "network": method.title, "ood": name, "eps": eps}
                if json_lines.find(json_lines.read(args.out), where | {"n": args.n, "seed": args.seed}):
                    continue
                for line in bounds.measure(method.title, method.score, detector, (x_id, x_ood), eps, seed=args.seed):
                    json_lines.append(args.out, line | where | {"accuracy": round(done.accuracy, 4)})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    fashion.add_options(parser)
    fashion.add_methods(parser)
    args = parser.parse_args(arguments)
    if None in (args.data, args.cache, args.out):
        parser.error("--data, --cache and --out must be given")
    run(args)


if __name__ == "__main__":
    main()
