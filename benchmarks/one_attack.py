"""One attack on one detector and one OOD set, ours or another library's: AUROC left, passes, forwards, seconds."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import oodattack as oa
from benchmarks import cifar_data
from benchmarks.json_lines import Line
from benchmarks.peers import OOD_CLASS, PEERS, Ball, TwoLogits, has_gradient
from oodattack.metrics import auroc, id_threshold
from oodattack.threat import Suite, Threat, ThreatModel

BATCH = 100  # rows at a time


class Counted(oa.Classifier):
    """A classifier that counts the rows that go through its network, or through a faster copy of it."""

    rows = 0
    _inside = False

    def forward(self, x: Tensor) -> Tensor:
        return self._count(super().forward, x)

    def logits(self, x: Tensor) -> Tensor:
        return self._count(super().logits, x)

    def features(self, x: Tensor) -> Tensor:
        return self._count(super().features, x)

    def _count(self, f, x: Tensor) -> Tensor:
        if self._inside:  # these call one another
            return f(x)
        self._inside, self.rows = True, self.rows + len(x)
        try:
            return f(x)
        finally:
            self._inside = False


def limits(ball: Ball, **fields) -> ThreatModel:
    """PGD with 100 steps of eps / 40, hiding OOD inputs."""
    values = dict(
        name="pgd-100", norm=ball.norm, eps=ball.eps, aim="hide", start="ood", init="ball", attack="pgd",
        step_size=1 / 40, queries=102, restarts=1, iterate="best", source="arXiv:1706.06083, section 2.1",
    )  # fmt: skip
    if "objective" in ThreatModel.model_fields:
        values["objective"] = "score"
    return ThreatModel(**(values | fields))


def device_name(device: torch.device) -> str:
    """What the GPU is called, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def run_ours(
    detector: torch.nn.Module, id: cifar_data.Id, x: Tensor, threat: Threat, *, seed: int, batch: int = BATCH
) -> Line:
    """One of our threats through `evaluate`."""
    net, before, start = detector.net, detector.net.rows, time.perf_counter()
    report = oa.evaluate(
        detector, id=id.x, ood={"ood": x}, threats=[threat], targets=id.targets, seed=seed, batch_size=batch
    )
    (result,) = report.results
    return {
        "auroc_clean": result.clean.auroc,
        "auroc": result.attacked.auroc,
        "passes": round(result.queries, 2),
        "forwards": round((net.rows - before) / len(x), 2),
        "seconds": round(time.perf_counter() - start, 2),
        "members": result.members if isinstance(threat, Suite) else None,
    }


class Sides(NamedTuple):
    """Images and what the detector says of them before any attack."""

    id_x: Tensor
    x: Tensor
    id_scores: Tensor
    scores: Tensor


def run_peer(
    detector: torch.nn.Module,
    on: str,
    side: Sides,
    name: str,
    ball: Ball,
    *,
    passes: int,
    seed: int,
    batch: int = BATCH,
) -> Line:
    """One attack of another library on a wrapped detector, or on its wrapped surrogate."""
    net, before, x = detector.net, detector.net.rows, side.x
    attacked = detector if on == "detector" else detector.surrogate.score
    line: Line = {"auroc_clean": auroc(side.id_scores, side.scores)}
    if not has_gradient(attacked, x):
        nothing = {"auroc": line["auroc_clean"], "passes": 0, "forwards": 0, "seconds": 0.0}
        return line | nothing | {"note": "no gradient: rows stay clean"}
    own = (side.id_scores, side.scores) if on == "detector" else (scores(attacked, side.id_x), scores(attacked, x))
    tau = id_threshold(own[0], tpr=0.95)
    pad = -10 * (torch.cat(own).double() - tau).abs().max().item() if PEERS[name].padded else None
    model = TwoLogits(attacked, tau, inside=detector, pad=pad)
    start, after = time.perf_counter(), []
    for block in x.split(batch):
        torch.manual_seed(seed)  # the peers draw from the global generator
        labels = torch.full((len(block),), OOD_CLASS, device=x.device)
        x_adv = PEERS[name].run(model, block, labels, ball, passes).detach()
        x_adv = x_adv.where(x_adv.isfinite(), block)
        after.append(limits(ball).settle(x_adv, block))
    seconds = time.perf_counter() - start
    return line | {
        "auroc": auroc(side.id_scores, torch.minimum(side.scores, scores(detector, torch.cat(after)))),
        "passes": round(model.passes / len(x), 2),
        "forwards": round((net.rows - before) / len(x), 2),
        "seconds": round(seconds, 2),
    }


def scores(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f of all rows, without a gradient, on the CPU."""
    with torch.no_grad():
        return torch.cat([f(block).cpu() for block in x.split(BATCH)])
