"""The confident classifier within the loop: generator and discriminator take a step each before the network's own.

Lee, Lee, Lee & Shin 2018, arXiv:1711.09325, Alg. 1.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor
from torch.optim import Adam, Optimizer

from oodattack import objectives
from oodattack.train.losses import Batch, Logits, Terms, rest_of
from oodattack.train.recipe import Recipe

LATENT, WIDTH = 100, 64  # authors' code
LR, BETAS = 2e-4, (0.5, 0.999)  # of both, authors' code; it falls as the network's does at a milestone


class Adversaries:
    """A DCGAN whose images the network is to be undecided on.

    Args:
        recipe: gives the weight.
        optimiser: the network's; its learning rate, over the recipe's, scales those of the GAN without a one-cycle.
        like: an ID image (1, C, H, W) with the dtype and device of the network; square.

    Raises:
        ValueError: images that are not square, or smaller than 8 pixels.
    """

    def __init__(self, recipe: Recipe, optimiser: Optimizer, like: Tensor) -> None:
        _, channels, height, width = like.shape
        if height != width:
            raise ValueError(f"`x` must be square for {recipe.objective}, got {height} x {width}. Crop the images.")
        self.recipe, self.optimiser = recipe, optimiser
        self.maker = objectives.generator(channels, height, latent=LATENT, width=WIDTH).to(like)
        self.judge = objectives.discriminator(channels, height, width=WIDTH).to(like)
        self.making = Adam(self.maker.parameters(), lr=LR, betas=BETAS)
        self.judging = Adam(self.judge.parameters(), lr=LR, betas=BETAS)

    def __call__(self, net: Logits, batch: Batch, generator: Generator) -> tuple[Terms, Terms]:
        """Terms of the network's loss, and the losses of the two others, whose steps are done."""
        fake = self.images(batch.x, generator)
        judged = objectives.discriminator_loss(self.judge(batch.x), self.judge(fake.detach()))
        self.update(self.judging, judged)
        weight = self.recipe.weight
        made = objectives.generator_loss(self.judge(fake), net(fake), weight=weight, form="non-saturating")
        self.update(self.making, made)
        with torch.no_grad():
            fake = self.images(batch.x, generator)
        logits, logits_fake = net(torch.cat([batch.x, fake])).chunk(2)
        total = objectives.confident(logits, batch.y, logits_fake, weight=weight)
        shown = {"discriminator": judged.detach(), "generator": made.detach()}
        return rest_of(total, logits, batch.y, "uniform"), shown

    def images(self, like: Tensor, generator: Generator) -> Tensor:
        """As many generated images as there are rows in `like`."""
        z = torch.randn(len(like), LATENT, generator=generator, dtype=like.dtype)
        return self.maker(z.to(like.device))  # type: ignore[no-any-return]

    def update(self, optimiser: Optimizer, loss: Tensor) -> None:
        """One step; gradients that reach the other networks are cleared before their own steps."""
        if self.recipe.schedule != "one-cycle":
            optimiser.param_groups[0]["lr"] = LR * self.optimiser.param_groups[0]["lr"] / self.recipe.lr
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """Both networks and both optimisers."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the networks and optimisers of `state_dict`."""
        for name, part in self.parts().items():
            part.load_state_dict(state[name])

    def parts(self) -> dict[str, Any]:
        """What has a state."""
        return {"maker": self.maker, "judge": self.judge, "making": self.making, "judging": self.judging}
