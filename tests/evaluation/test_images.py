"""Images that come in loaders and data sets: read as the tensors they stand for, or refused in words."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from oodattack.evaluation import evaluate
from oodattack.evaluation.adversarial import adversarial_images
from oodattack.evaluation.images import device_of, in_memory
from oodattack.threat import ThreatModel

CPU = torch.device("cpu")
X = torch.rand(10, 3, 4, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(10)
QUICK = ThreatModel(
    name="quick", norm="linf", eps=0.1, aim="hide", objective="score", start="ood", init="ball", attack="apgd",
    queries=5, restarts=1, iterate="best", source="test",
)  # fmt: skip


class Rows(Dataset):
    """Elements of any kind, one a row."""

    def __init__(self, *rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


class Stream(IterableDataset):
    """Rows of X with their labels, whose number nobody knows."""

    def __iter__(self):
        return zip(X, Y.tolist(), strict=True)


def read(images, *, seed: int = 0) -> torch.Tensor:
    return in_memory(images, "id", device=CPU, seed=seed)


def keyed(batch):
    return {"data": batch[0], "data_aux": batch[0] + 1, "label": batch[1], "index": [0] * len(batch[0])}


SAME = {
    "tensor": X,
    "loader": DataLoader(TensorDataset(X), batch_size=4),
    "loader with labels": DataLoader(TensorDataset(X, Y), batch_size=3),
    "loader of rows": DataLoader(TensorDataset(X, Y), batch_size=None),
    "loader of OpenOOD": DataLoader([keyed((x[None], y)) for x, y in zip(X, Y, strict=True)], batch_size=None),
    "loader of one named tensor": DataLoader([{"pixel_values": x, "label": 1} for x in X], batch_size=4),
    "data set": TensorDataset(X, Y),
    "labels that do not collate": Rows(*((x, None) for x in X)),
    "arrays": Rows(*((x.numpy(), 0) for x in X)),
    "stream": Stream(),
}


@pytest.mark.parametrize("images", SAME.values(), ids=SAME)
def test_whatever_holds_the_images_gives_the_same_tensor(images):
    assert torch.equal(read(images), X)


def test_a_loader_that_shuffles_is_read_in_the_order_of_the_seed_and_leaves_others_their_random_numbers():
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = read(loader, seed=1), read(loader, seed=1), read(loader, seed=2)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first.flatten().sort().values, X.flatten().sort().values)


WRONG = {
    "nothing": (Rows(), "`id` must hold at least one image, got an empty Rows"),
    "several sizes": (Rows(X[0], X[1, :, 1:]), r"images of one size, got \(3, 4, 5\) and \(3, 3, 5\)\. Resize them"),
    "no tensors": (Rows("a", "b"), r"must yield tensors of images, got str\. Give it transform=transforms\.ToTensor"),
    "pictures": (Rows((object(), 1)), "must yield tensors of images, got object"),
    "several by name": (Rows({"left": X[0], "right": X[1]}), "got a mapping with left, right"),
}


@pytest.mark.parametrize(("images", "says"), WRONG.values(), ids=WRONG)
def test_what_holds_no_images_is_said(images, says):
    with pytest.raises(ValueError, match=says) as caught:
        read(images)
    assert "\n" not in str(caught.value)


def test_images_are_put_where_the_first_network_is():
    def nowhere(x):
        return x.mean((1, 2, 3))

    assert device_of({"a": nowhere}) == CPU
    assert device_of({"a": nowhere, "b": nn.Linear(1, 1, device="meta")}).type == "meta"
    assert in_memory(TensorDataset(X), "id", device=torch.device("meta"), seed=0).device.type == "meta"


def test_an_evaluation_is_the_same_on_loaders_as_on_tensors():
    def brightness(x):
        return x.mean((1, 2, 3))

    def result(wrap):
        report = evaluate(
            brightness,
            id=wrap(0.5 * X),
            ood={"bright": wrap(0.3 + 0.5 * X)},
            targets=wrap(0.4 * X),
            threats=QUICK,
            seed=0,
        )
        (cell,) = report.results
        return cell.clean.auroc, cell.attacked.auroc, report.spec.id.sha256, [s.sha256 for s in report.spec.ood]

    on_tensors = result(lambda x: x)
    assert result(lambda x: DataLoader(TensorDataset(x, Y), batch_size=3)) == on_tensors
    assert result(TensorDataset) == on_tensors

    x, id = 0.3 + 0.5 * X, 0.5 * X
    found = adversarial_images(brightness, x, id=id, threat=QUICK, seed=0)
    again = adversarial_images(brightness, TensorDataset(x), id=TensorDataset(id), threat=QUICK, seed=0)
    assert torch.equal(again, found)
