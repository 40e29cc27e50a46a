"""JEM within the loop: Langevin chains on the network as it is, and their buffer. arXiv:1912.03263."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from oodattack import objectives
from oodattack.train.losses import Batch, Logits, Terms, rest_of
from oodattack.train.recipe import Recipe

# of chains on images in [0, 1]; the authors' 1 and 0.01 are for [-1, 1], see `langevin_samples`
STEP_SIZE, NOISE, RESTART = 0.25, 0.005, 0.05


class Chains:
    """The loss of JEM on ID images and on samples of the network itself.

    Args:
        recipe: gives steps and buffer.
        network: put into eval mode while chains run, so that rows do not influence one another.
        like: an ID image (1, C, H, W) with the dtype and device of the network.
        seed: of the chains.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, like: Tensor, *, seed: int) -> None:
        size = max(recipe.buffer, recipe.batch_size)
        self.recipe, self.network = recipe, network
        self.replay = objectives.start_replay(size, like, seed=seed)

    def __call__(self, net: Logits, batch: Batch, generator: Generator) -> tuple[Terms, Terms]:
        """Terms of the loss, and nothing else to show."""
        self.network.eval()
        samples = objectives.langevin_samples(
            lambda x: net(x).logsumexp(dim=1),
            self.replay,
            len(batch.x),
            steps=self.recipe.chain,
            step_size=STEP_SIZE,
            noise=NOISE,
            restart=RESTART,
        )
        self.network.train()
        logits, logits_q = net(torch.cat([batch.x, samples])).chunk(2)
        total = objectives.joint_energy(logits, batch.y, logits_q, weight=self.recipe.weight)
        return rest_of(total, logits, batch.y, "density"), {}

    def state_dict(self) -> dict[str, Any]:
        """The buffer and its generator."""
        return objectives.replay_state(self.replay)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the chains of `state_dict`."""
        device = self.replay.images.device
        self.replay = objectives.restore_replay({**state, "images": state["images"].to(device)})
