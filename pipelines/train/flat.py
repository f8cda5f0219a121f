"""Many small parameters as one long one, so that an update is a handful of operations.

A LoRA of SDXL has over a thousand small tensors, and looping over them costs the optimiser more
than the arithmetic. Here each is a view into one long tensor, its gradient too. Element by element
the arithmetic is the same.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FlatParameters:
    """Parameters by name, laid end to end; the optimiser sees only `flat`."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        first = next(iter(parameters.values()))
        total = sum(parameter.numel() for parameter in parameters.values())
        self.flat = nn.Parameter(torch.empty(total, dtype=first.dtype, device=first.device))
        self.flat.grad = torch.zeros_like(self.flat)
        self._spans: dict[str, tuple[slice, torch.Size]] = {}
        start = 0
        for name, parameter in parameters.items():
            span = slice(start, start + parameter.numel())
            self._spans[name] = (span, parameter.shape)
            view = self.flat.data[span].view(parameter.shape)
            view.copy_(parameter.data)
            parameter.data = view
            parameter.grad = self.flat.grad[span].view(parameter.shape)
            start = span.stop

    @property
    def gradient(self) -> Tensor:
        """All gradients, end to end."""
        assert self.flat.grad is not None  # set at construction, zeroed but never dropped
        return self.flat.grad

    def named(self) -> dict[str, Tensor]:
        """Views of the values, by name."""
        return {n: self.flat.data[span].view(shape) for n, (span, shape) in self._spans.items()}

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Copies values in; KeyError where one is missing."""
        for name, view in self.named().items():
            view.copy_(values[name])
