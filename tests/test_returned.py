"""Images that leave PyTorch inside a score and come back: what gradient they get, and what is not taken for them."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from oodattack.keep_graph import PREPROCESSING, Kept, mode, straight_through, views_of
from oodattack.keep_graph.returned import Returned, best_view, colour_map, part

SIZE = 24
LINE = torch.linspace(0, 3, SIZE)


def pictures(n=8, channels=3, seed=0):
    """Smooth images with a little noise, shape (n, channels, 24, 24)."""
    generator = torch.Generator().manual_seed(seed)
    a, b, shift = torch.rand(3, n, channels, 1, 1, generator=generator)
    waves = (3 * a * LINE[:, None] + 3 * b * LINE + 6 * shift).sin()
    return (0.5 + 0.35 * waves + 0.03 * torch.randn(n, channels, SIZE, SIZE, generator=generator)).clamp(0, 1)


torch.manual_seed(0)
BODY = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.SiLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
NETWORK = nn.Sequential(BODY, nn.Linear(128, 5))
NETWORK.requires_grad_(False)
X = pictures()
MEAN, STD = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
to_pillow = transforms.ToPILImage()
from_pillow = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN.flatten(), STD.flatten())])


def energy(x):
    return -NETWORK(x).logsumexp(1)


def through_jpeg(row):
    to_pillow(row).save(file := io.BytesIO(), "JPEG", quality=75)
    return Image.open(file)


def in_order_of_brightness(x):
    """Row by row, but not in the order of the rows."""
    values = torch.empty(len(x))
    for row in x.mean(dim=(1, 2, 3)).argsort():
        values[row] = energy(torch.tensor(x[row : row + 1].numpy()))[0]
    return values


def from_a_buffer(x):
    """Normalised into a tensor that was there before."""
    buffer = torch.zeros(len(x), 3, SIZE, SIZE)
    for row, image in enumerate(x.numpy()):
        buffer[row] = (torch.from_numpy(image) - MEAN) / STD
    return energy(buffer)


def copied_into_a_buffer(x):
    """Row by row, through parts of it, while it shows more and more of the images."""
    buffer = torch.zeros(len(x), 3, SIZE, SIZE)
    for row, image in enumerate(x.numpy()):
        buffer[row].copy_(torch.from_numpy(image))
        buffer[row].sub_(MEAN).div_(STD)
    return energy(buffer)


def blue_first(x):
    levels = (255 * x.numpy()).round().transpose(0, 2, 3, 1)[..., ::-1] - [104.0, 117.0, 123.0]
    return energy(torch.tensor(levels.transpose(0, 3, 1, 2).copy()).float() / 128)


def grey(x):
    made = np.stack([np.asarray(to_pillow(row).convert("L")) for row in x])
    return energy((torch.from_numpy(made)[:, None] / 255).expand(-1, 3, -1, -1))


def odd(x):
    """As ODIN: the step that it takes is by a gradient at what came back."""
    back = torch.from_numpy(x.numpy().copy())
    with torch.enable_grad():
        back.requires_grad_()
        (slope,) = torch.autograd.grad(energy(back).sum(), back)
    return energy(back.detach() - 0.01 * slope.sign())


with warnings.catch_warnings(action="ignore"):
    TRACED = torch.jit.trace(NETWORK, X[:2])
PREPROCESSED = {
    "a traced network": lambda x: -TRACED(torch.stack([from_pillow(to_pillow(row)) for row in x])).logsumexp(1),
    "NumPy": lambda x: energy(torch.from_numpy(x.numpy())),
    "a list": lambda x: energy(torch.tensor(x.tolist())),
    "JPEG, a loop": lambda x: torch.cat([energy(from_pillow(through_jpeg(row))[None]) for row in x]),
    "JPEG, stacked": lambda x: energy(torch.stack([from_pillow(through_jpeg(row)) for row in x])),
    "in pairs": lambda x: torch.cat([energy(torch.from_numpy(pair.numpy())) for pair in x.split(2)]),
    "another order": in_order_of_brightness,
    "a buffer": from_a_buffer,
    "blue first": blue_first,
    "grey": grey,
    "larger": lambda x: energy(torch.stack([from_pillow(to_pillow(row).resize((40, 40))) for row in x])),
    "the middle": lambda x: energy(
        torch.stack([transforms.CenterCrop(28)(from_pillow(to_pillow(row).resize((32, 32)))) for row in x])
    ),
    "a score that rounds": lambda x: (50 * energy(torch.from_numpy(x.numpy()))).round() / 50,
    "without autograd": torch.inference_mode()(lambda x: energy(torch.from_numpy(x.numpy()))),
    "two views": lambda x: energy(torch.tensor(x.numpy())) + energy(torch.tensor(x.numpy()).flip(3)),
    "ODIN": odd,
}


@pytest.mark.parametrize("score", PREPROCESSED.values(), ids=PREPROCESSED)
def test_preprocessing_outside_pytorch_is_passed_straight_through(score):
    scored = lambda x: score(x.detach())
    found = straight_through(scored, X, seed=0)
    assert found is not None and (found.name, found.exact) == (PREPROCESSING, True)
    leaf = X.clone().requires_grad_()
    torch.testing.assert_close(found.score(leaf).detach(), scored(X), rtol=1e-5, atol=1e-5)


def test_a_score_that_turns_within_8_levels_is_looked_at_nearer():
    turning = lambda x: (150 * torch.from_numpy(x.detach().numpy()).mean((1, 2, 3))).sin()  # phase 4.7 at 8/255
    found = straight_through(turning, X, seed=0)
    assert found is not None and found.name == PREPROCESSING


def slope(score, x=X):
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(score(leaf).sum(), leaf)
    return grad


BANK = pictures(5, seed=1)
with torch.inference_mode():
    STORED = pictures(5, seed=1)
MASK = torch.rand(X.shape, generator=torch.Generator().manual_seed(0))
EXACT = {
    "NumPy": (lambda x: energy(torch.from_numpy(x.numpy())), energy),
    "normalised": (
        lambda x: energy(torch.from_numpy(((x - MEAN) / STD).numpy())),
        lambda x: energy((x - MEAN) / STD),
    ),
    "blue first": (
        lambda x: energy(torch.from_numpy(x.numpy()[:, ::-1].copy())),
        lambda x: energy(x.flip(1)),
    ),
    "grey": (
        lambda x: energy(torch.from_numpy(x.numpy().mean(1, keepdims=True)).expand(-1, 3, -1, -1)),
        lambda x: energy(x.mean(1, keepdim=True).expand(-1, 3, -1, -1)),
    ),
    "another order": (in_order_of_brightness, energy),
    "copied into a buffer": (copied_into_a_buffer, lambda x: energy((x - MEAN) / STD)),
    "in a larger batch": (
        lambda x: energy(torch.from_numpy(np.concatenate([x.numpy(), np.zeros((5, 3, SIZE, SIZE), "float32")])))[:8],
        energy,
    ),
    "in different colours at once": (
        lambda x: energy(torch.from_numpy(np.concatenate([x.numpy(), 1 - x.numpy()]))).view(2, -1).sum(0),
        lambda x: energy(x) + energy(1 - x),
    ),
    "beside stored images": (
        lambda x: torch.cdist(BODY(torch.from_numpy(x.numpy())), BODY(BANK)).amin(1),
        lambda x: torch.cdist(BODY(x), BODY(BANK)).amin(1),
    ),
    "beside images stored in inference mode": (
        lambda x: torch.cdist(BODY(torch.from_numpy(x.numpy())), BODY(STORED)).amin(1),
        lambda x: torch.cdist(BODY(x), BODY(BANK)).amin(1),
    ),
    "beside a mask": (lambda x: energy(torch.from_numpy(x.numpy()) * MASK), lambda x: energy(x * MASK)),
    "twice": (
        lambda x: energy(torch.from_numpy(x.numpy())) + energy(torch.from_numpy(1 - x.numpy())),
        lambda x: energy(x) + energy(1 - x),
    ),
}


@pytest.mark.parametrize(("score", "in_the_open"), EXACT.values(), ids=EXACT)
def test_where_preprocessing_is_linear_in_colours_the_gradient_is_exact(score, in_the_open):
    scored = lambda x: score(x.detach())
    kept = Kept(scored, views=views_of(scored, X))
    torch.testing.assert_close(slope(kept), slope(in_the_open), rtol=1e-3, atol=1e-5)


UNLIKE = {
    "flipped": X.flip(2),
    "noise": torch.rand(X.shape),
    "many more rows": X.repeat(13, 1, 1, 1),
    "rows of pixels": X.flatten(2),
    "integers": (255 * X).long(),
    "one colour": torch.ones_like(X),
    "a gradient of its own": X.clone().requires_grad_(),
    "weights": nn.Parameter(X, requires_grad=False),
    "weights of a layer": BODY[0].weight.data.clone(),
    "a number": 3,
}


@pytest.mark.parametrize("y", UNLIKE.values(), ids=UNLIKE)
def test_what_is_not_like_the_images_stays_as_it_is(y):
    assert Returned(X.clone().requires_grad_()).attached(y) is y


def test_a_tensor_that_changes_is_looked_at_again():
    returned = Returned(X.clone().requires_grad_())
    buffer = torch.zeros_like(X)
    assert returned.attached(buffer) is buffer
    buffer.copy_(X)
    assert returned.attached(buffer).requires_grad and returned.attached(buffer) is returned.attached(buffer)


def test_memory_is_not_looked_at_before_something_is_written_to_it(monkeypatch):
    """What an allocator gives may hold the images of the call before."""
    monkeypatch.setattr(mode, "UNDONE", mode.UNDONE | {torch.empty_like: lambda _, like: like.detach().clone()})

    def filled(x):
        buffer = torch.empty_like(x)
        assert len(buffer) == len(x)
        for row, image in enumerate(x.numpy()):
            buffer[row] = torch.from_numpy(image)
        return energy(buffer)

    kept = Kept(lambda x: filled(x.detach()), views=views_of(lambda x: filled(x.detach()), X))
    torch.testing.assert_close(slope(kept), slope(energy), rtol=1e-3, atol=1e-5)


def test_the_colour_map_of_least_squares():
    true = torch.tensor([[0.5, 0.0, 2.0], [-1.0, 3.0, 0.1]])
    explained, colours = colour_map(X, torch.einsum("oc,bchw->bohw", true, X) + 7)
    assert explained == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(colours, true, rtol=1e-4, atol=1e-4)
    noise = torch.randn(X.shape)
    assert colour_map(X, noise)[0] < 0.01


def test_noise_explains_nothing_of_its_own_part():
    noisy = X + X.std() * torch.randn(X.shape, generator=torch.Generator().manual_seed(0))
    assert colour_map(X, noisy)[0] == pytest.approx(0.5, abs=0.05)  # variance of X in that of X + noise


@pytest.mark.parametrize(("size", "side"), [((24, 24), 20), ((30, 18), 18), ((160, 200), 139), ((160, 160), 125)])
def test_the_square_that_is_shown_is_found(size, side):
    x = part(X, None, size)
    view = best_view(x, 3 * part(x, side, (32, 32)) - 1)
    assert (view.side, view.explained) == (side, pytest.approx(1, abs=1e-6))
    torch.testing.assert_close(view.colours, 3 * torch.eye(3), rtol=1e-3, atol=1e-3)
    assert best_view(x, part(x, None, (28, 12))).side is None


def test_what_was_learnt_of_images_serves_where_they_show_nothing():
    score = lambda x: energy(torch.from_numpy(x.detach().numpy()))
    kept = Kept(score, views=views_of(score, X))
    for x in (torch.full((4, 3, SIZE, SIZE), 0.5), torch.rand(4, 3, SIZE, SIZE)):
        torch.testing.assert_close(slope(kept, x), slope(energy, x), rtol=1e-3, atol=1e-5)


def test_what_was_learnt_serves_where_each_image_comes_back_in_a_contrast_of_its_own():
    score = lambda x: energy(torch.from_numpy(x.detach().numpy()))
    returned = Returned(X.clone().requires_grad_(), views_of(score, X))
    contrast = torch.tensor([1.0, -1.0] * 4).view(8, 1, 1, 1)
    assert colour_map(X, contrast * X)[0] < 0.5
    assert returned.attached(contrast * X).requires_grad and not returned.attached(X.flip(2)).requires_grad


def test_images_of_which_none_comes_back_have_no_slope():
    score = lambda x: energy(torch.from_numpy(x.detach().numpy())) if len(x) > 2 else torch.zeros(len(x))
    kept = Kept(score, views=views_of(score, X))
    assert slope(kept, X[:3]).any() and not slope(kept, X[:2]).any()


STRIPES = np.array([1.0, -1.0] * (SIZE // 2), dtype="float32")
REFUSED = {
    "comes back as something else": lambda x: energy(torch.rand(x.shape, generator=torch.Generator().manual_seed(0))),
    "never comes back": lambda x: torch.from_numpy(x.numpy().std(axis=(1, 2, 3))),
    "most of it stays there": lambda x: (
        torch.from_numpy((500 * x.numpy() * STRIPES).mean((1, 2, 3))) + torch.from_numpy(x.numpy()).mean((1, 2, 3))
    ),
    "its score leaves": lambda x: torch.from_numpy(energy(torch.from_numpy(x.numpy())).numpy().round(1)),
}


@pytest.mark.parametrize("score", REFUSED.values(), ids=REFUSED)
def test_without_a_way_back_there_is_no_gradient(score):
    assert straight_through(lambda x: score(x.detach()), X, seed=0) is None
