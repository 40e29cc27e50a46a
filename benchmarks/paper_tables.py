"""What the five papers' detectors do on CIFAR-10, clean and under the protocols of the papers.

    R=benchmarks/results
    python -m benchmarks.paper_tables clean --data FOLDER --n 1000 --seed 0 --out $R/paper_clean.jsonl
    python -m benchmarks.paper_tables attacked --data FOLDER --n 200 --seed 0 --out $R/paper_attacked.jsonl
    python -m benchmarks.paper_tables matching --data FOLDER --n 200 --seed 0 --out $R/paper_matching.jsonl
    python -m benchmarks.paper_tables si --data FOLDER --n 1000 --seed 0 --out $R/paper_si.jsonl
    python -m benchmarks.paper_tables saliency --data FOLDER --n 500 --seed 0 --out $R/sal_agg.json

Networks and arrays: `cifar_networks.py`, `cifar_data.py`. `clean`, `attacked` and `matching` leave out what the
file already holds.
"""

import argparse
from pathlib import Path

import torch

from benchmarks import cifar_networks, paper_attacked, paper_clean, paper_matching, paper_saliency, paper_si

PARTS = {
    "clean": paper_clean,
    "attacked": paper_attacked,
    "matching": paper_matching,
    "si": paper_si,
    "saliency": paper_saliency,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commas = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar_data.py and of the weight files")
    parser.add_argument("--network", choices=cifar_networks.NETWORKS, default="resnet20")
    parser.add_argument("--detectors", type=commas, help="of the parts clean and attacked; default: all")
    parser.add_argument("--ood", type=commas, default=["textures"], help="of the part attacked")
    parser.add_argument("--cases", type=commas, help="of the part matching: those whose title holds one of these words")
    parser.add_argument("--n", type=int, default=1000, help="ID images, and OOD images a set")
    parser.add_argument("--fit", type=int, default=10_000, help="training images to fit on")
    parser.add_argument("--queries", type=int, default=101, help="of the part matching, a row and search")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    torch.manual_seed(args.seed)
    PARTS[args.part].run(args)


if __name__ == "__main__":
    main()
