"""Detectors whose honest verdict is known, on 1 x 8 x 8 images, and tricks that hide a broken one from a gradient.

ID and OOD images differ in two ways: by 0.25 in brightness, which a ball of 8/255 cannot bridge, and by a checkerboard
of amplitude 0.02, which it can. Everything below `FOOLING` scores the checkerboard alone, so it is broken in truth.
"""

import io
from functools import cache
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import nn

SIZE = 8
CHECKER = torch.tensor([[(-1.0) ** (i + j) for j in range(SIZE)] for i in range(SIZE)])
AMPLITUDE = 0.01  # of the checkerboard, minus on ID images and plus on OOD images


@cache
def patterns():
    """Four smooth patterns in [-1, 1]: three ID classes, one of the OOD images."""
    line = torch.linspace(0, torch.pi, SIZE)
    waves = [line.cos(), (2 * line).cos()]
    return torch.stack([a[:, None] * b[None] for a in waves for b in waves])


def images(n, *, ood, seed):
    """Images (n, 1, 8, 8) and their classes (n,); OOD images are class 3."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.full((n,), 3) if ood else torch.arange(n) % 3
    noise = torch.randn(n, SIZE, SIZE, generator=generator)
    weak = AMPLITUDE if ood else -AMPLITUDE
    x = (0.6 if ood else 0.35) + 0.06 * patterns()[y] + weak * CHECKER + 0.03 * noise
    return x.clamp(0, 1).unsqueeze(1), y


# --- honest ---


def brightness(x):
    """Holds at 8/255: the sets are 0.25 apart."""
    return x.flatten(1).mean(1)


def probability(x):
    """That an image is OOD, of its brightness: 1 - 5e-4 to an image of theirs, where it is flat."""
    return (60 * (brightness(x) - 0.475)).sigmoid()


def checker(x):
    """The weak feature, scaled to about -2 on ID and 2 on OOD images. Linear."""
    return (CHECKER * x[:, 0]).flatten(1).mean(1) * (2 / AMPLITUDE)


@cache
def network():
    """Logits of 64 random ReLU features, by ridge regression: 4 for the right one of three ID classes, else 0."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 64), nn.ReLU(), nn.Linear(64, 3)).requires_grad_(False)
    net[1].weight.copy_(torch.randn(64, SIZE * SIZE, generator=generator) / SIZE)
    net[1].bias.copy_(torch.randn(64, generator=generator) / 2)
    (seen, classes), (other, none) = images(150, ood=False, seed=10), images(75, ood=True, seed=11)
    x, y = torch.cat([seen, other]), torch.cat([classes, none])
    hidden = torch.cat([net[:3](x), torch.ones(len(x), 1)], dim=1)
    wanted = 4 * nn.functional.one_hot(y, 4)[:, :3].float()
    head = torch.linalg.solve(hidden.T @ hidden + torch.eye(65), hidden.T @ wanted)
    net[3].weight.copy_(head[:-1].T)
    net[3].bias.copy_(head[-1])
    return net.eval()


def energy(x):
    return -network()(x).logsumexp(1)


def max_logit(x):
    return -network()(x).amax(1)


def pooled(x):
    """Max-pooling and ReLU kinks: largest local contrast with the checkerboard."""
    return nn.functional.max_pool2d(CHECKER * x, 4).relu().flatten(1).sum(1)


@cache
def gaussians():
    x, y = images(300, ood=False, seed=12)
    rows = x.flatten(1)
    means = torch.stack([rows[y == k].mean(0) for k in range(3)])
    centred = rows - means[y]
    precision = torch.linalg.inv(centred.T @ centred / len(x) + 1e-4 * torch.eye(rows.shape[1]))
    return means, precision


def mahalanobis(x):
    means, precision = gaussians()
    off = x.flatten(1)[:, None] - means
    return torch.einsum("bki,ij,bkj->bk", off, precision, off).amin(1)


@cache
def reference():
    return images(90, ood=False, seed=13)[0].flatten(1)


def nearest(x):
    """Distance to the 5th nearest ID image."""
    return torch.cdist(x.flatten(1), reference()).kthvalue(5, dim=1).values


def sign_step(x):
    """The energy of an input moved a little towards an ID class, as in ODIN: the step is a constant to the gradient."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(energy(leaf).sum(), leaf)
    return energy(x - 0.002 * grad.sign())


HONEST = {
    "brightness": brightness,
    "probability": probability,
    "linear": checker,
    "energy": energy,
    "max-logit": max_logit,
    "max-pool": pooled,
    "mahalanobis": mahalanobis,
    "nearest": nearest,
    "sign-step": sign_step,
}

# --- fooling ---


def saturated(x):
    """float32 says 1 on OOD images, and that its slope there is 0."""
    return torch.sigmoid(30 * checker(x))


def rounded_score(x):
    return torch.round(2 * checker(x)) / 2


def rounded_input(x):
    return checker(torch.round(x * 15) / 15) + 4 * checker(torch.round(x * 255) / 255)


def rounded_beside_a_gradient(x):
    """What the gradient shows is brightness; what moves the score is the checkerboard, rounded."""
    return rounded_input(x) + 0.1 * brightness(x)


def noisy_and_rounded(x):
    return torch.round(2 * checker(x)) / 2 + 0.3 * torch.randn(len(x), device=x.device)


def through_pictures(x):
    """The checkerboard of PNG files, opened one by one."""
    return torch.cat([checker(torch.from_numpy(picture(row)[None, None]) / 255) for row in x.detach()])


def picture(row):
    """(1, H, W) in [0, 1], written and read again: grey levels (H, W)."""
    levels = (255 * row[0]).round().to(torch.uint8).cpu().numpy()
    Image.fromarray(levels).save(file := io.BytesIO(), "PNG")
    return np.array(Image.open(file)).astype("float32")


def noisy_score(x):
    return checker(x) + 0.5 * torch.randn(len(x), device=x.device)


def noisy_input(x):
    return checker(x + 0.03 * torch.randn_like(x))


def without_gradient(x):
    with torch.no_grad():
        return checker(x)


def detached(x):
    return checker(x.detach()) + 0 * x.flatten(1).sum(1)


def partly_detached(x):
    """What the gradient shows is brightness; what moves the score is the checkerboard."""
    return checker(x.detach()) + 0.1 * brightness(x)


def shattered(x):
    """A ripple 2 % as high as the sets are apart, whose slope is a thousand times that of the score."""
    ripple = torch.sin(2e5 * (x.flatten(1) * torch.linspace(0.5, 1.5, SIZE * SIZE, dtype=x.dtype)).sum(1))
    return checker(x) + 0.08 * ripple


class RandomGradient(torch.autograd.Function):
    """The identity, with noise for its derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.randn_like(grad)


class FlippedGradient(torch.autograd.Function):
    """The identity, with minus one for its derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


def random_gradient(x):
    return checker(RandomGradient.apply(x))


def flipped_gradient(x):
    return checker(FlippedGradient.apply(x))


def adaptive_ode(x, *, rate=10.0, tolerance=0.05, end=1.0):
    """Follow dz/dt = rate (z - z^3) from z = checker(x) / 4 to `end`, by Euler steps that Heun's method controls.

    Each row has its own step length, which the gradient does not see. Everything falls onto -1 or 1. The slope dies out
    with exp(-2 rate t), and changes its sign with every step that is too long for the decay it follows.
    """
    z = checker(x) / 4
    t, step = torch.zeros_like(z), torch.full_like(z, 0.01)

    def field(z):
        return rate * (z - z**3)

    for _ in range(400):
        step = torch.minimum(step, end - t)
        slope = field(z)
        euler = z + step * slope
        error = (step / 2 * (field(euler) - slope)).abs().detach()
        keep = (error <= tolerance) & (t < end)
        z, t = torch.where(keep, euler, z), torch.where(keep, t + step, t)
        step = step * (0.9 * (tolerance / (error + 1e-9)).sqrt()).clamp(0.2, 3)
        if bool((t >= end).all()):
            break
    return z


def batch_median(x):
    """A row is judged by the company it keeps."""
    own = checker(x)
    return 0.1 * own + own.median()


FOOLING = {
    "saturated": saturated,
    "rounded-score": rounded_score,
    "rounded-input": rounded_input,
    "rounded-beside-a-gradient": rounded_beside_a_gradient,
    "noisy-and-rounded": noisy_and_rounded,
    "through-pictures": through_pictures,
    "noisy-score": noisy_score,
    "noisy-input": noisy_input,
    "no-grad": without_gradient,
    "detached": detached,
    "partly-detached": partly_detached,
    "shattered": shattered,
    "random-gradient": random_gradient,
    "flipped-gradient": flipped_gradient,
    "adaptive-ode": adaptive_ode,
    "batch-median": batch_median,
}


# --- plateaus and jumps: a truthful gradient that has nothing to do with what tells the sets apart ---


def stripes(x):
    """The same on ID and OOD images, but for noise."""
    return (CHECKER[:1] * x[:, 0]).flatten(1).mean(1)


def plateau(x):
    return (checker(x) > 0).float() + 0.01 * stripes(x)


def gate(x):
    return torch.where(checker(x) > 0, 1 + 0.05 * stripes(x), -1 + 0.05 * stripes(x))


def clamped(x):
    return (5 * checker(x)).clamp(-1, 1) + 0.01 * stripes(x)


def steep(x):
    return 2 * torch.sigmoid(40 * (checker(x) + 0.2)) + 0.05 * stripes(x)


def votes(x):
    """Eight blocks of pixels vote, each whether it sees the checkerboard."""
    blocks = (CHECKER * x[:, 0]).view(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).flatten(3).mean(3)
    return (blocks > 0).float().flatten(1).mean(1) + 0.01 * stripes(x)


def jump(x):
    """Whose slope is as long as the jump is high, and leads along it."""
    return (checker(x) > 0).float() + stripes(x)


def jumping_gate(x):
    return torch.where(checker(x) > 0, 1 + 3 * stripes(x), -1 + 3 * stripes(x))


JUMPS = {"jump": jump, "jumping-gate": jumping_gate}
PLATEAUS = {"plateau": plateau, "gate": gate, "clamped": clamped, "steep": steep, "votes": votes}


# --- a part of the images, or of the ball, where the gradient is another one ---

HALVES = torch.cat([torch.ones(SIZE, SIZE // 2), -torch.ones(SIZE, SIZE // 2)], dim=1)


def tilt(x):
    """0, and 0.1 on the tilted images of `mixed`."""
    return (HALVES * x[:, 0]).flatten(1).mean(1)


def mixed(n=61, every=4):
    """As `sets`, but one OOD image in `every` is brighter to the left."""
    plain = sets(n)
    plain.ood[::every] = (plain.ood[::every] + 0.1 * HALVES).clamp(0, 1)
    return plain


def some_beyond_a_jump(x):
    """Tilted images lie on a plateau with a slope of its own; the others are told by brightness, which holds."""
    return torch.where(tilt(x) > 0.05, 0.7 * (checker(x) > 0) + 0.1 * tilt(x), brightness(x))


def some_flipped(x):
    return torch.where(tilt(x) > 0.05, 0.5 + 0.05 * checker(FlippedGradient.apply(x)), brightness(x))


def some_random(x):
    return torch.where(tilt(x) > 0.05, 0.5 + 0.05 * checker(RandomGradient.apply(x)), brightness(x))


PARTLY = {
    "some-beyond-a-jump": some_beyond_a_jump,
    "some-flipped": some_flipped,
    "some-random": some_random,
}


def rough(x):
    """How much neighbours differ, the checkerboard apart: little on images, more with noise of 8/255 on them."""
    flat = x - (CHECKER * x[:, 0]).mean((1, 2))[:, None, None, None] * CHECKER
    return (flat - nn.functional.avg_pool2d(flat, 3, 1, 1, count_include_pad=False)).abs().flatten(1).mean(1)


def smooth_sets(n=24):
    """Images with hardly any noise on them, told apart by the checkerboard."""
    made = []
    for ood in (False, True):
        generator = torch.Generator().manual_seed(20 + ood)
        light = 0.5 + 0.05 * torch.randn(n, 1, 1, generator=generator)
        noise = 0.002 * torch.randn(n, SIZE, SIZE, generator=generator)
        made.append((light + (0.8 if ood else -0.8) * AMPLITUDE * CHECKER + noise).clamp(0, 1).unsqueeze(1))
    return SimpleNamespace(id=made[0], ood=made[1])


def true_on_images_only(x):
    """Where an image is noisy its gradient is that of a pattern that tells nothing, and the rest goes through NumPy."""
    hidden = torch.as_tensor(checker(x).detach().numpy())
    pattern = torch.linspace(-1, 1, SIZE * SIZE).view(SIZE, SIZE).roll(3, 0)
    return torch.where(rough(x).detach() > 0.006, hidden, checker(x)) + 0.05 * (pattern * x[:, 0]).flatten(1).mean(1)


def sets(n=40):
    """ID and OOD images for an evaluation."""
    return SimpleNamespace(id=images(n, ood=False, seed=1)[0], ood=images(n, ood=True, seed=2)[0])
