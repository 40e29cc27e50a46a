"""The protocol of Liang et al. 2020: OOD inputs from noise, matched to ID images in what the detector looks at.

Every ID image of the test set is the target of one noise image within l2 10, and the same ID images are the negatives
of the AUROC, as in the paper. Two searches: Algorithm 1 as printed (Adamax, learning rate eps / 100, last iterate),
and `lbfgs` of this package (best iterate).
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

import oodattack as oa
from benchmarks import cifar_data, json_lines
from benchmarks.paper_clean import built, fit_on
from oodattack.data import start_images
from oodattack.detectors import Fit
from oodattack.identity import versions
from oodattack.threat import ThreatModel

SOURCE = "Liang et al. 2020, arXiv:2009.08016"


class Case(NamedTuple):
    """One row of the table.

    Attributes:
        title: detector and setting.
        build: (arguments, what to fit on) -> detector.
        match: what is matched.
        published: AUROC in the paper, None where it has no such row.
        start: image that the search starts from.
    """

    title: str
    build: Callable[[argparse.Namespace, Fit], nn.Module]
    match: str
    published: float | None
    start: str = "noise"


def table(name: str, network: str | None = None) -> Callable[[argparse.Namespace, Fit], nn.Module]:
    """A detector of the table."""
    return lambda args, fit: built(name, network or args.network, args.data, fit)


def layers(magnitude: float) -> Callable[[argparse.Namespace, Fit], nn.Module]:
    """Mahalanobis over layers with a preprocessing step."""

    def build(args: argparse.Namespace, fit: Fit) -> nn.Module:
        net = built("msp", args.network, args.data, fit).net
        return oa.detectors.fit_mahalanobis_layers(net, fit.x, fit.y, magnitude=magnitude)

    return build


def odin(temperature: float, magnitude: float) -> Callable[[argparse.Namespace, Fit], nn.Module]:
    """ODIN at a point of the paper's grid."""

    def build(args: argparse.Namespace, fit: Fit) -> nn.Module:
        net = built("msp", args.network, args.data, fit).net
        return oa.detectors.ODIN(net, temperature=temperature, magnitude=magnitude)

    return build


CASES = (
    Case("MSP", table("msp"), "latent", 0.500),
    *(Case(f"ODIN, T = {t}, PM = {pm}", odin(t, pm), "latent", 0.500) for t in (1, 1000) for pm in (0.001, 0.004)),
    Case("Energy", table("energy"), "latent", None),
    Case("OE score, network tuned with OE", table("oe-score", "densenet"), "latent", 0.500),
    Case("Deep Ensemble, three networks", table("ensemble"), "latent", 0.500),
    Case("Mahalanobis score, PM = 0", layers(0.0), "score", 0.500),
    Case("Mahalanobis score, PM = 0.01", layers(0.01), "score", 0.500),
    Case("Mahalanobis features, PM = 0", layers(0.0), "features", 0.467),
    Case("Mahalanobis features, PM = 0.01", layers(0.01), "features", 0.179),
    Case("Gram, p = 1..5, score", table("gram"), "score", 0.500),
    Case("Glow NLL - PNG length, score", table("glow-png"), "score", 0.500, "colour-spiral"),
    Case("JEM, -log p(x), a plain classifier", table("jem-px"), "latent", 0.559, "colour-spiral"),
    Case("JEM, p(y|x), a plain classifier", table("jem-py"), "latent", 0.513, "colour-spiral"),
    Case("JEM, gradient norm, a plain classifier", table("jem-gradient"), "logits", 0.203, "colour-spiral"),
    Case("CCU", table("ccu"), "latent", None),
    Case("Auto-encoder, code", table("auto-encoder"), "latent", None),
)


def features_of(detector: nn.Module) -> nn.Module:
    """The same Mahalanobis detector whose latent is of the input as it is, not preprocessed, as in the paper."""
    plain = oa.detectors.MahalanobisLayers(detector.net, detector.layers, detector.gaussians, magnitude=0.0)
    detector.latent = plain.latent
    return detector


def threats(match: str, start: str, queries: int) -> list[ThreatModel]:
    """Both searches."""
    common = {"norm": "l2", "eps": 10.0, "aim": "match", "match": match, "paired": True, "start": start}
    common |= {"queries": queries, "restarts": 1, "source": SOURCE}
    first = {"init": "sphere", "attack": "adamax", "step_size": 0.01, "iterate": "last"}
    return [
        ThreatModel(name="algorithm-1", **common, **first),
        ThreatModel(name="lbfgs", **common, init="sphere", attack="lbfgs", iterate="best"),
    ]


def run(args: argparse.Namespace) -> None:
    """One line a case and search."""
    x = cifar_data.id_images(args.data, n=args.n, seed=args.seed).x
    fit = fit_on(args.data, n=args.fit, seed=args.seed)
    setting = {"benchmark": "paper_matching", "network": args.network, "n": args.n, "seed": args.seed}
    setting |= {"queries": args.queries}
    for case in CASES:
        where = setting | {"case": case.title, "match": case.match, "start": case.start, "published": case.published}
        if json_lines.find(json_lines.read(args.out), where) or (
            args.cases and not any(c in case.title for c in args.cases)
        ):
            continue
        detector = case.build(args, fit)
        if case.match == "features":
            detector = features_of(detector)
        wanted = threats("latent" if case.match == "features" else case.match, case.start, args.queries)
        starts = {case.start: start_images(case.start, args.n, channels=3, size=32, seed=args.seed)}
        report = oa.evaluate(detector, id=x, ood={}, starts=starts, threats=wanted, seed=args.seed)
        for result in report.results:
            left = {"auroc_clean": result.clean.auroc, "auroc": result.attacked.auroc}
            left |= {"mape_median": result.mape.median if result.mape else None, "distance": result.distance}
            rounded = {k: v if v is None else round(v, 6) for k, v in left.items()}
            line = where | {"search": result.threat} | rounded | {"passes": result.queries, "stopped": result.stopped}
            json_lines.append(args.out, line | versions())
