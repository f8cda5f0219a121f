"""A stage's prompts as SDXL's UNet reads them, looked up or encoded anew with gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EmbeddedPrompts:
    """`hidden` [prompts, tokens, width of both encoders] and `pooled` [prompts, width]."""

    hidden: Tensor
    pooled: Tensor

    def rows(self, indices: Sequence[int]) -> "EmbeddedPrompts":
        """The given prompts, in that order."""
        chosen = torch.tensor(indices, device=self.hidden.device)
        return EmbeddedPrompts(
            self.hidden.index_select(0, chosen), self.pooled.index_select(0, chosen)
        )
