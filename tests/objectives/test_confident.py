import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy, cross_entropy, kl_div

from oodattack.objectives.confident import confident, discriminator_loss, generator_loss, uniform_divergence
from oodattack.objectives.outlier_exposure import outlier_exposure

DOUBLE = torch.float64
DRAWN = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def test_divergence_by_hand():
    # p = (1/4, 3/4): -log 2 - (log 1/4 + log 3/4) / 2 = log(4 / 3) / 2; a flat row: 0
    logits = torch.tensor([[0.0, math.log(3)], [7.0, 7.0]], dtype=DOUBLE)
    expected = torch.tensor([math.log(4 / 3) / 2, 0], dtype=DOUBLE)
    torch.testing.assert_close(uniform_divergence(logits), expected)


def test_divergence_is_the_mean_over_rows_and_classes_times_the_classes():
    logits = DRAWN[0]
    authors = kl_div(logits.log_softmax(dim=1), torch.full_like(logits, 1 / 4), reduction="none").mean() * 4
    assert uniform_divergence(logits).mean().item() == pytest.approx(authors.item(), rel=1e-12)
    assert outlier_exposure(logits).item() == pytest.approx(authors.item() + math.log(4), rel=1e-12)


def test_classifier_loss_is_cross_entropy_and_divergence():
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    expected = cross_entropy(DRAWN[0], y) + 0.1 * uniform_divergence(DRAWN[1]).mean()
    assert confident(DRAWN[0], y, DRAWN[1], weight=0.1).item() == pytest.approx(expected.item(), rel=1e-12)


def test_gan_losses_by_hand():
    # D(x) = 3/4, D(G(z)) = 1/4 and 1/2: -log 3/4 - (log 3/4 + log 1/2) / 2
    real = torch.tensor([math.log(3)], dtype=DOUBLE)
    fake = torch.tensor([-math.log(3), 0], dtype=DOUBLE)
    expected = math.log(4 / 3) + (math.log(4 / 3) + math.log(2)) / 2
    assert discriminator_loss(real, fake).item() == pytest.approx(expected, rel=1e-12)
    # log(1 - D) = log 3/4, log 1/2; -log D = log 4, log 2
    flat = torch.zeros(2, 5, dtype=DOUBLE)  # no divergence
    minimax = generator_loss(fake, flat, weight=1.0, form="minimax").item()
    assert minimax == pytest.approx((math.log(3 / 4) + math.log(1 / 2)) / 2, rel=1e-12)
    other = generator_loss(fake, flat, weight=1.0, form="non-saturating").item()
    assert other == pytest.approx((math.log(4) + math.log(2)) / 2, rel=1e-12)


def test_discriminator_loss_is_the_binary_cross_entropy_of_the_sigmoid():
    real, fake = DRAWN[0, :, 0], DRAWN[1, :, 0]
    authors = binary_cross_entropy(real.sigmoid(), torch.ones_like(real))
    authors = authors + binary_cross_entropy(fake.sigmoid(), torch.zeros_like(fake))
    assert discriminator_loss(real, fake).item() == pytest.approx(authors.item(), rel=1e-12)
    assert discriminator_loss(torch.zeros(3), torch.zeros(2)).item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("form", ["minimax", "non-saturating"])
def test_a_generator_wants_real_outputs_and_flat_logits(form):
    fake, logits = DRAWN[0, :, 0].clone().requires_grad_(), DRAWN[1].clone().requires_grad_()
    slopes = torch.autograd.grad(generator_loss(fake, logits, weight=0.5, form=form), (fake, logits))
    assert (slopes[0] < 0).all()
    expected = 0.5 * (logits.softmax(dim=1) - 1 / 4) / 6  # gradient of the divergence: softmax less uniform
    torch.testing.assert_close(slopes[1], expected)


def test_the_forms_differ_where_the_discriminator_is_sure():
    fake = torch.tensor([-40.0], requires_grad=True)
    slope = lambda form: torch.autograd.grad(generator_loss(fake, torch.zeros(1, 2), weight=0.0, form=form), fake)[0]
    assert slope("non-saturating").item() == pytest.approx(-1)
    assert abs(slope("minimax").item()) < 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniform_divergence(torch.zeros(3, 1)), r"`logits` must have shape \(B, C\) with C >= 2"),
        (
            lambda: confident(torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(0, 3), weight=1.0),
            r"`logits_fake` must have shape \(M, C\) with M >= 1",
        ),
        (
            lambda: confident(torch.zeros(2, 3), torch.tensor([0]), torch.zeros(2, 3), weight=1.0),
            r"got \(2, 3\), \(1,\) and \(2, 3\)",
        ),
        (
            lambda: confident(torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(2, 3), weight=-1.0),
            "`weight` must be >= 0, got -1",
        ),
        (lambda: discriminator_loss(torch.zeros(2, 1), torch.zeros(2)), r"`real` must have shape \(M,\)"),
        (lambda: discriminator_loss(torch.zeros(2), torch.zeros(0)), r"`fake` must have shape \(M,\)"),
        (
            lambda: generator_loss(torch.zeros(2), torch.zeros(3, 2), weight=1.0, form="minimax"),
            "one row an output of the discriminator, got 3 rows for 2",
        ),
        (
            lambda: generator_loss(torch.zeros(2), torch.zeros(2, 2), weight=1.0, form="wasserstein"),
            r"`form` must be one of \('minimax', 'non-saturating'\), got 'wasserstein'",
        ),
    ],
)
def test_wrong_use_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
