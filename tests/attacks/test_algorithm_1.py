"""Algorithm 1 of Liang et al. 2020, step by step against torch's own Adamax, and APGD's schedule by hand."""

import torch

from oodattack.aims import mape, match
from oodattack.attack import maximise
from oodattack.attacks.adamax import adamax
from oodattack.attacks.apgd import checkpoints
from oodattack.geometry import row_random, sphere
from oodattack.threat import read_threat

EPS, STEPS = 0.7, 25


def test_adamax_follows_the_paper_step_by_step():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 4, 4, generator=generator, dtype=torch.float64)
    encode = torch.randn(16, 5, generator=generator, dtype=torch.float64)
    f = lambda images: (images.flatten(1) @ encode).tanh()
    z_in = f(torch.rand(3, 1, 4, 4, generator=generator, dtype=torch.float64))

    threat = read_threat("liang-latent").model_copy(update={"eps": EPS, "queries": STEPS + 1, "iterate": "last"})
    random = row_random(0, "t", range(3), "cpu", x.dtype)
    found = maximise(match(f, z_in), x, threat, adamax(step_size=0.01), random, keep_clean=False)

    # the same by hand, with the library's optimiser
    noise = sphere(row_random(0, "t", range(3), "cpu", x.dtype), (1, 4, 4), EPS, "l2")
    delta = ((x + noise).clamp(0, 1) - x).detach()
    optimiser = torch.optim.Adamax([delta], lr=EPS / 100)
    for _ in range(STEPS):
        images = (x + delta).requires_grad_()
        (grad,) = torch.autograd.grad((f(images) - z_in).square().sum(), images)
        delta.grad = grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        optimiser.step()
        with torch.no_grad():
            size = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            delta.mul_((EPS / size).clamp(max=1))  # ball first
            delta.copy_((x + delta).clamp(0, 1) - x)  # box second, written back
    torch.testing.assert_close(found.x_adv, x + delta, rtol=0, atol=1e-9)


def test_the_start_is_on_the_sphere():
    noise = sphere(row_random(0, "t", range(4), "cpu", torch.float64), (3, 32, 32), 10.0, "l2")
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), torch.full((4,), 10.0, dtype=torch.float64))


def test_mape_by_hand():
    z_in = torch.tensor([[1.0, -4.0], [2.0, 0.0]])
    z_out = torch.tensor([[2.0, -4.0], [2.0, 0.0]])
    # row 0: mean(|1|, |0|) = 0.5, over max |z_in| = 4; row 1 is matched
    torch.testing.assert_close(mape(z_in, z_out), torch.tensor([0.125, 0.0]))


def test_apgd_checkpoints_by_hand():
    # p = 0, .22, .41, .57, .70, .80, .87, .93, .99 (differences shrink by .03 down to .06)
    assert checkpoints(100) == (0, 22, 41, 57, 70, 80, 87, 93, 99)
