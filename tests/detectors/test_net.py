"""What may stand for `net`: a Classifier, or what has the methods of one that a detector calls."""

import inspect

import pytest
import torch
from torch import nn

from oodattack import detectors


def on_a_network() -> dict[str, object]:
    """Public classes and functions whose first argument is a classifier, or several."""
    found = {name: getattr(detectors, name) for name in detectors.__all__ if name not in ("DETECTORS", "Row")}
    first = {name: next(iter(inspect.signature(made).parameters.values())) for name, made in found.items()}
    return {name: found[name] for name, parameter in first.items() if parameter.name in ("net", "nets")}


ON_A_NETWORK = on_a_network()


def test_there_are_many():
    assert {"Energy", "ODIN", "DeepEnsemble", "JemPy", "SIZ", "fit_mahalanobis", "fit_odin"} <= set(ON_A_NETWORK)
    assert len(ON_A_NETWORK) > 40


@pytest.mark.parametrize("name", ON_A_NETWORK)
def test_a_bare_network_is_refused_in_one_line(name):
    class Vgg(nn.Module):
        """With a module called `features`, as torchvision's."""

        def __init__(self):
            super().__init__()
            self.features, self.classifier = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    made = ON_A_NETWORK[name]
    first, *others = inspect.signature(made).parameters.values()
    needed = [p for p in others if p.default is p.empty]
    by_name = {p.name: 1 for p in needed if p.kind is p.KEYWORD_ONLY}
    for bare in (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), Vgg(), lambda x: x):
        with pytest.raises(TypeError) as caught:
            made([bare] if first.name == "nets" else bare, *[torch.ones(1)] * (len(needed) - len(by_name)), **by_name)
        kind = type(bare).__name__
        assert str(caught.value) == (
            f"`net` must be an oodattack.Classifier, got {kind}. Wrap it: oa.Classifier(network, mean=..., std=...)."
        )


def test_a_network_with_the_methods_will_do():
    class Mine(nn.Module):
        def logits(self, x):
            return x.flatten(1)

    x = torch.rand(2, 1, 2, 2)
    assert torch.equal(detectors.MaxLogit(Mine().eval())(x), -x.flatten(1).amax(1))
