"""Makes a network wider without changing its function, to train it further with more channels.

Every channel is repeated (Net2WiderNet, Chen et al. 2016). Repeated channels leave the mean and
variance of a normalised group unchanged, as long as the number of groups stays the same.
"""

from typing import Final

import torch
from torch import nn

_NOISE: Final[float] = 0.02  # relative to the weights; equal copies would stay equal for ever


@torch.no_grad()
def widen(narrow: nn.Module, wide: nn.Module) -> None:
    """Give `wide` the function of `narrow`: the same layers with a multiple of the channels.

    The copies of a channel differ by a little noise from torch's global generator.
    """
    weights = narrow.state_dict()
    for name, target in wide.state_dict().items():
        source = weights[name]
        if source.shape == target.shape:
            target.copy_(source)
            continue
        repeated = source
        for axis, (before, after) in enumerate(zip(source.shape, target.shape, strict=True)):
            repeated = repeated.repeat_interleave(after // before, axis)
        if source.ndim > 1:  # each output is a sum over the copies of its inputs
            repeated = repeated / (target.shape[1] // source.shape[1])
            repeated = repeated * (1 + _NOISE * torch.randn(repeated.shape))
        target.copy_(repeated)
