"""Cost of an attack step, as a ratio to a bare loop written by hand, and what the same steps do to the AUROC.

    python -m benchmarks.step_cost --rounds 7 --out step_cost.jsonl
    python -m benchmarks.step_cost --rounds 7 --data FOLDER --out step_cost.jsonl

ResNet-18 with a 3 x 3 stem and no first pooling, random weights, images of 32 x 32, energy score, batch 32, 20 steps of
linf 8/255, parameters left trainable. The bare loop: forward, gradient to the input, sign step, projection. Contestants
take turns, another one first in each round; the ratio is taken within a round. Ours pays for one forward more, the
score of the last point, and for what the loop does besides: best so far, accounting, comparing the folded network.

With `--data`, AUROC of the energy score of ResNet-20, CIFAR-10 against textures, after as many steps of each, images
projected and scored by the untouched detector, per row never worse than clean.
"""

import argparse
import platform
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import oodattack as oa
from benchmarks import cifar_data, cifar_networks, json_lines, peers
from benchmarks.json_lines import Line
from benchmarks.one_attack import device_name, limits
from oodattack import aims
from oodattack.attack import maximise
from oodattack.attacks import ATTACKS
from oodattack.evaluation.part import fast
from oodattack.full_precision import full_precision
from oodattack.geometry import row_random
from oodattack.metrics import auroc, id_threshold

BALL = peers.Ball("linf", 8 / 255)
Attack = Callable[[nn.Module, float, Tensor, int], Tensor]  # detector, threshold, images, steps -> x_adv


def resnet18() -> oa.Classifier:
    """torchvision's ResNet-18 with the stem that CIFAR images get, random weights."""
    from torchvision.models import resnet18 as build

    network = build(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return oa.Classifier(network.eval(), mean=[0.49, 0.48, 0.45], std=[0.25, 0.24, 0.26])


def bare(detector: nn.Module, _tau: float, x: Tensor, steps: int) -> Tensor:
    """The least that PGD does; last iterate."""
    x_adv = x + BALL.eps * (2 * torch.rand_like(x) - 1)
    x_adv = x_adv.clamp(0, 1)
    for _ in range(steps):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(detector(x_adv).sum(), x_adv)
        x_adv = x_adv.detach() - 2.5 * BALL.eps / steps * grad.sign()
        x_adv = (x + (x_adv - x).clamp(-BALL.eps, BALL.eps)).clamp(0, 1)
    return x_adv


def ours(attack: str, **precision: str) -> Attack:
    """The package's loop as a search runs it: `steps` gradients, and the score of the last point."""

    def run(detector: nn.Module, _tau: float, x: Tensor, steps: int) -> Tensor:
        size = 2.5 / steps if attack == "pgd" else None
        threat = limits(BALL, name="steps", attack=attack, step_size=size, queries=steps + 1)
        random = row_random(0, "steps", range(len(x)), x.device, x.dtype)
        loss = fast(aims.hide(detector), **precision)
        return maximise(loss, x, threat, ATTACKS[attack].build(threat), random, keep_clean=False).x_adv

    return run


def theirs(run: peers.Run) -> Attack:
    """Another library's attack on the detector as two logits."""

    def attack(detector: nn.Module, tau: float, x: Tensor, steps: int) -> Tensor:
        labels = torch.full((len(x),), peers.OOD_CLASS, device=x.device)
        return run(peers.TwoLogits(detector, tau, inside=detector), x, labels, BALL, steps)

    return attack


def contestants() -> dict[str, Attack]:
    """The bare loop first; libraries that are not installed are left out."""
    found: dict[str, Attack] = {"bare": bare, "ours-pgd": ours("pgd"), "ours-apgd": ours("apgd")}
    found["ours-pgd-bfloat16"] = ours("pgd", precision="bfloat16")
    found["ours-apgd-bfloat16"] = ours("apgd", precision="bfloat16")
    found["torchattacks-pgd"] = theirs(peers.torchattacks_pgd)
    if find_spec("foolbox"):  # its last pass is no step
        found["foolbox-pgd"] = theirs(lambda model, x, y, ball, steps: peers.foolbox_pgd(model, x, y, ball, steps + 1))
    if find_spec("adv_lib"):
        found |= {"advlib-pgd": theirs(peers.advlib_pgd), "advlib-apgd": theirs(peers.advlib_apgd_long)}
    return found


def finished(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounds(entrants: dict[str, Attack], *, detector: nn.Module, x: Tensor, steps: int, times: int) -> dict[str, list]:
    """Seconds of every entrant in every round; the first round, not counted, warms up."""
    with torch.no_grad():
        tau = detector(x).median().item()
    seconds: dict[str, list[float]] = {name: [] for name in entrants}
    names = list(entrants)
    for i in range(times + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            torch.manual_seed(i)
            finished(x.device)
            start = time.perf_counter()
            entrants[name](detector, tau, x, steps)
            finished(x.device)
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def cost_lines(seconds: dict[str, list[float]], setting: Line) -> list[Line]:
    """One line a contestant: median milliseconds a step, median and range of its ratio to the bare loop in a round."""
    lines = []
    for name, own in seconds.items():
        ratios = np.array(own) / np.array(seconds["bare"])
        measured = {"ms_per_step": float(np.median(own)) / setting["steps"] * 1e3, "ratio": float(np.median(ratios))}
        measured |= {"ratio_min": float(ratios.min()), "ratio_max": float(ratios.max())}
        rounded = {key: round(value, 3) for key, value in measured.items()}
        lines.append({"benchmark": "step_cost", "attack": name} | setting | rounded | {"rounds": len(own)})
    return lines


def strength_lines(
    entrants: dict[str, Attack], folder: Path, setting: Line, device: torch.device, *, n: int, seed: int
) -> list[Line]:
    """One line a contestant: AUROC after as many steps of each."""
    detector = oa.detectors.Energy(cifar_networks.load("resnet20", folder).to(device))
    sides = cifar_data.id_images(folder, n=n, seed=seed).x, cifar_data.ood_images("textures", folder, n=n, seed=seed)
    id, x = (images.to(device) for images in sides)
    score = lambda images: torch.cat([detector(block).detach() for block in images.split(250)])  # noqa: E731
    with torch.no_grad():
        on_id, clean = score(id), score(x)
    tau, lines = id_threshold(on_id, tpr=0.95), []
    for name, attack in entrants.items():
        torch.manual_seed(seed)
        x_adv = torch.cat([attack(detector, tau, block, setting["steps"]).detach() for block in x.split(250)])
        with torch.no_grad():
            left = auroc(on_id, torch.minimum(clean, score(limits(BALL).settle(x_adv, x))))
        line = {"benchmark": "step_strength", "attack": name} | setting | {"n": n, "seed": seed}
        lines.append(line | {"auroc_clean": round(auroc(on_id, clean), 4), "auroc": round(left, 4)})
    return lines


@full_precision()  # for all of them
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="0: measure strength alone")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--attacks", type=lambda text: text.split(","), help="some of them; bare comes by itself")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--data", type=Path, help="measure strength too, on the data of cifar_data.py")
    parser.add_argument("--n", type=int, default=500, help="images a set for the strength")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON lines, appended to")
    args = parser.parse_args(arguments)
    torch.manual_seed(args.seed)
    entrants = {k: v for k, v in contestants().items() if not args.attacks or k in ("bare", *args.attacks)}
    setting = {"steps": args.steps, "threads": torch.get_num_threads(), "torch": torch.__version__}
    lines = []
    if args.rounds:
        detector = oa.detectors.Energy(resnet18().to(args.device))
        x = torch.rand(args.batch, 3, 32, 32).to(args.device)
        seconds = rounds(entrants, detector=detector, x=x, steps=args.steps, times=args.rounds)
        where = {"batch": args.batch, "machine": platform.machine(), "device": device_name(args.device)}
        lines += cost_lines(seconds, setting | where)
    if args.data:
        lines += strength_lines(entrants, args.data, setting, args.device, n=args.n, seed=args.seed)
    for line in lines:
        json_lines.append(args.out, line)


if __name__ == "__main__":
    main()
