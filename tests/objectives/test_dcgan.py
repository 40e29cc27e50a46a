import pytest
import torch
from torch import nn

from oodattack.objectives.confident import discriminator_loss, generator_loss
from oodattack.objectives.dcgan import discriminator, generator


def noise(n, latent, seed=0):
    return torch.randn(n, latent, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [*range(8, 20), *range(26, 35), 64])
def test_images_have_the_size_asked_for_and_come_back_as_one_number(size):
    with torch.no_grad():
        images = generator(2, size, latent=5, width=2)(noise(3, 5))
        assert images.shape == (3, 2, size, size)
        assert ((images > 0) & (images < 1)).all()
        assert discriminator(2, size, width=2)(images).shape == (3,)


def test_number_of_weights_at_32_pixels():
    # kernels 4 x 4: 16 * (100*512 + 512*256 + 256*128 + 128*3), batch norms 2 * (512 + 256 + 128)
    count = lambda net: sum(p.numel() for p in net.parameters())
    assert count(generator(3, 32, latent=100, width=64)) == 16 * (51_200 + 131_072 + 32_768 + 384) + 1_792
    # 16 * (3*128 + 128*256 + 256*512 + 512*1), batch norms 2 * (256 + 512)
    assert count(discriminator(3, 32, width=64)) == 16 * (384 + 32_768 + 131_072 + 512) + 1_536


def test_initial_weights_are_small():
    torch.manual_seed(0)
    for network in (generator(1, 28, latent=50, width=8), discriminator(1, 28, width=8)):
        for module in network:
            if isinstance(module, nn.BatchNorm2d):
                assert (module.weight - 1).abs().max() < 0.1 and (module.weight != 1).all() and (module.bias == 0).all()
            elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.weight.numel() > 500:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_images_of_different_noise_differ():
    torch.manual_seed(0)
    images = generator(1, 28, latent=20, width=4)(noise(6, 20))
    assert torch.cdist(images.flatten(1), images.flatten(1)).add(torch.eye(6)).min() > 0.05


def test_each_network_gets_the_gradient_of_its_own_loss():
    torch.manual_seed(0)
    g, d, f = (
        generator(1, 28, latent=6, width=2),
        discriminator(1, 28, width=2),
        nn.Sequential(nn.Flatten(), nn.Linear(784, 3)),
    )
    reached = lambda net: [p.grad is not None and bool(p.grad.any()) for p in net.parameters()]
    images = g(noise(4, 6))
    discriminator_loss(d(torch.rand(4, 1, 28, 28)), d(images.detach())).backward()
    assert all(reached(d)) and not any(reached(g))
    generator_loss(d(images), f(images), weight=1.0, form="non-saturating").backward()
    assert all(reached(g))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generator(1, 7, latent=4, width=2), "`size` must be >= 8, got 7"),
        (lambda: discriminator(0, 28, width=2), "`channels` must be >= 1, got 0"),
        (lambda: generator(1, 28, latent=0, width=2), "`latent` must be >= 1, got 0"),
        (lambda: discriminator(1, 28, width=0), "`width` must be >= 1, got 0"),
    ],
)
def test_wrong_numbers_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
