"""Exponential moving average of weights: what is saved and judged, never what is trained."""

from collections.abc import Iterable

import torch


class Average:
    """The average starts quickly and slows down to `decay`."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float):
        self.decay = decay
        self.weights = [parameter.detach().clone() for parameter in parameters]

    def update(self, parameters: Iterable[torch.nn.Parameter], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.weights, [p.detach() for p in parameters], 1 - decay)

    def load(self, weights: list[torch.Tensor]) -> None:
        for mine, saved in zip(self.weights, weights, strict=True):
            mine.copy_(saved)

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        for parameter, mean in zip(parameters, self.weights, strict=True):
            parameter.copy_(mean)
