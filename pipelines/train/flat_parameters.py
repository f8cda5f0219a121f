"""Many small parameters as one long one, so that an update is a handful of operations.

A LoRA of SDXL has over a thousand small tensors, and looping over them costs the optimiser more
than the arithmetic. Here each is a view into one long tensor, its gradient too. Element by element
the arithmetic is the same.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class FlatParameters:
    """Parameters by name, laid end to end, group by group.

    The optimiser sees only `groups`, one long parameter each; `values` and `gradient` are all of
    them, one after the other.
    """

    def __init__(self, groups: Sequence[Mapping[str, nn.Parameter]]) -> None:
        every = [parameter for group in groups for parameter in group.values()]
        total, first = sum(parameter.numel() for parameter in every), every[0]
        self.values = torch.empty(total, dtype=first.dtype, device=first.device)
        self.gradient = torch.zeros_like(self.values)
        self.groups: list[nn.Parameter] = []
        self._spans: dict[str, tuple[slice, torch.Size]] = {}
        stop = 0
        for group in groups:
            start = stop
            for name, parameter in group.items():
                span = slice(stop, stop + parameter.numel())
                self._spans[name] = (span, parameter.shape)
                view = self.values[span].view(parameter.shape)
                view.copy_(parameter.data)
                parameter.data = view
                parameter.grad = self.gradient[span].view(parameter.shape)
                stop = span.stop
            long = nn.Parameter(self.values[start:stop])
            long.grad = self.gradient[start:stop]
            self.groups.append(long)

    def named(self) -> dict[str, Tensor]:
        """Views of the values, by name."""
        return {n: self.values[span].view(shape) for n, (span, shape) in self._spans.items()}

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Copies values in; KeyError where one is missing."""
        for name, view in self.named().items():
            view.copy_(values[name])
