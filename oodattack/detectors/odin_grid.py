"""Temperature and magnitude of ODIN: the grid of Liang et al. 2020, and the choice of Liang, Li & Srikant, "Enhancing
the Reliability of OOD Image Detection", ICLR 2018, arXiv:1706.02690."""

from collections.abc import Sequence

from oodattack.classifier import Classifier
from oodattack.detectors.batches import BATCH_SIZE, Images, over_batches
from oodattack.detectors.net import check_net
from oodattack.detectors.odin import ODIN
from oodattack.metrics.fpr import fpr_at_95_id_tpr

TEMPERATURES = (1.0, 10.0, 100.0, 1000.0)
MAGNITUDES = (0.0, 0.001, 0.002, 0.004)


def odin_grid(
    net: Classifier, *, temperatures: Sequence[float] = TEMPERATURES, magnitudes: Sequence[float] = MAGNITUDES
) -> dict[tuple[float, float], ODIN]:
    """ODIN at every (temperature, magnitude), temperatures first; by default the 16 of Liang et al. 2020, table 2.

    Args:
        net: classifier.
        temperatures: > 0.
        magnitudes: >= 0, in [0, 1] input units; (1, 0) is the maximum softmax probability.

    Raises:
        ValueError: a temperature or magnitude out of range, or none.
    """
    check_net(net, "logits")
    if not (len(temperatures) and len(magnitudes)):
        raise ValueError("`temperatures` and `magnitudes` must have a number each, got none. Leave them out.")
    pairs = [(t, m) for t in temperatures for m in magnitudes]
    return {(t, m): ODIN(net, temperature=t, magnitude=m) for t, m in pairs}


def fit_odin(
    net: Classifier,
    id_val: Images,
    ood_val: Images,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    magnitudes: Sequence[float] = MAGNITUDES,
    batch_size: int = BATCH_SIZE,
) -> ODIN:
    """The ODIN of the grid that accepts the smallest share of OOD images where 95 % of the ID images are accepted.

    Args:
        net: classifier.
        id_val: ID validation images in [0, 1], a tensor or batches; see `batches`. Not those that it is judged on.
        ood_val: OOD validation images.
        temperatures: as `odin_grid`.
        magnitudes: as `odin_grid`.
        batch_size: images per forward pass.

    Returns:
        The first of the best, in the order of `odin_grid`.

    Raises:
        ValueError: as `odin_grid`, or no images.

    Differs from the paper: the default grid is that of Liang et al. 2020; the rate is read off one threshold.
    """
    grid = odin_grid(net, temperatures=temperatures, magnitudes=magnitudes)

    def rate(odin: ODIN) -> float:
        known, strange = (over_batches(odin, x, net=net, batch_size=batch_size) for x in (id_val, ood_val))
        return fpr_at_95_id_tpr(known, strange)

    return min(grid.values(), key=rate)  # the first one of equals
