"""Store many small parameters in one flat tensor, so that an update takes few operations.

A LoRA of SDXL has over a thousand small tensors. In a loop over them, the optimiser spends more
time on the loop than on arithmetic. Here each parameter and its gradient are views into one flat
tensor. The arithmetic of each element is unchanged.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class FlatParameters:
    """Named parameters, stored one after another, group by group.

    `values` and `gradient` [elements] contain all of them. The optimiser uses `groups`: one flat
    parameter for each group.
    """

    def __init__(self, groups: Sequence[Mapping[str, nn.Parameter]]) -> None:
        parameters = [parameter for group in groups for parameter in group.values()]
        total, first = sum(parameter.numel() for parameter in parameters), parameters[0]
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
            flat = nn.Parameter(self.values[start:stop])
            flat.grad = self.gradient[start:stop]
            self.groups.append(flat)

    def named(self) -> dict[str, Tensor]:
        """Return views of the values, by name, each in the shape of its parameter."""
        return {n: self.values[span].view(shape) for n, (span, shape) in self._spans.items()}

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Copy values into the parameters. Raises KeyError if one is missing."""
        for name, view in self.named().items():
            view.copy_(values[name])
