"""The exponential moving average of weights; it is saved and evaluated instead of the weights."""

from collections.abc import Iterable

import torch


class Average:
    """A moving average of parameters whose decay increases to `decay` during the first steps."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float):
        self.decay = decay
        self.weights = [parameter.detach().clone() for parameter in parameters]

    def update(self, parameters: Iterable[torch.nn.Parameter], step: int) -> None:
        """Add the parameters after update number `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.weights, [p.detach() for p in parameters], 1 - decay)

    def load(self, weights: list[torch.Tensor]) -> None:
        """Replace the averages by saved averages, in the order of the parameters."""
        for mean, saved in zip(self.weights, weights, strict=True):
            mean.copy_(saved)

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Copy the averages into the parameters."""
        for parameter, mean in zip(parameters, self.weights, strict=True):
            parameter.copy_(mean)
