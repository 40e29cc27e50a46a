"""The starting weights that deep networks of ReLUs train from.

He, Zhang, Ren & Sun, "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852.
"""

import math

from torch import nn


def he_start(network: nn.Module, *, linear_std: float | None = None) -> None:
    """Draw convolutions from N(0, 2 / (k^2 c)) for kernels of k x k and c output channels, and set biases to 0.

    With this variance the gradients keep their size from layer to layer (section 2.2, backward case). Linear maps keep
    the matrix that torch drew, or get one from N(0, linear_std^2). All comes from torch's global random state.

    Args:
        network: changed in place.
        linear_std: standard deviation of the linear maps' weights, > 0; None leaves them.

    Raises:
        ValueError: `linear_std` is not > 0.
    """
    if linear_std is not None and not linear_std > 0:
        raise ValueError(f"`linear_std` must be > 0, got {linear_std}. Leave it out for torch's own draw.")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            nn.init.normal_(module.weight, std=math.sqrt(2 / (height * width * module.out_channels)))
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, std=linear_std)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
