"""A training curve as a picture; its numbers are in the record beside the weights."""

import importlib
import io
from typing import Any

from oodattack.train.loop import Curve

APART = ("epoch", "lr", "accuracy", "energy_gradient")  # everything else is a term of a loss


def curve_png(curve: Curve) -> bytes:
    """Three panels over epochs, those that were measured: terms of the loss, ID accuracy, gradient norm of the energy.

    Args:
        curve: as `fit` returns it, one epoch at least.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    figures: Any = importlib.import_module("matplotlib.figure")
    terms = [name for name in curve[0] if name not in APART]
    panels = [("loss", terms)]
    panels += [
        (label, [name])
        for name, label in (("accuracy", "ID accuracy"), ("energy_gradient", "mean norm of the energy's gradient"))
        if name in curve[0]
    ]
    figure = figures.Figure(figsize=(4.5 * len(panels), 3.5), layout="constrained")
    epochs = [line["epoch"] for line in curve]
    for axes, (label, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in names:
            axes.plot(epochs, [line[name] for line in curve], marker=".", label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        if len(names) > 1:
            axes.legend(frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()
