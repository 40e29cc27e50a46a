"""The recipes on real images: accuracy on digits that were not trained on."""

import pytest
import torch

from oodattack.data.digits import digits
from oodattack.train import HeldOut, Setting, TrainingSet, trained


@pytest.fixture(scope="module")
def fed():
    train, held = digits("train"), digits("reference")
    return TrainingSet(train.x, train.y, None), HeldOut(held.x, held.y)


def test_accuracy_of_a_trained_network_on_held_out_digits(fed, tmp_path):
    done = trained("ce", *fed, setting=Setting(seed=0), cache=tmp_path)
    assert done.accuracy >= 0.97
    with torch.no_grad():
        right = done.network(fed[1].x).argmax(1) == fed[1].y
    assert right.double().mean().item() == pytest.approx(done.accuracy)
    assert [line["accuracy"] for line in done.record["curve"]][-1] == done.accuracy
