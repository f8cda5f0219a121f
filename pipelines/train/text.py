"""Prompts as SDXL's UNet reads them, with gradients where the text encoders are trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Embedded:
    """`hidden` [prompts, tokens, width of both encoders] and `pooled` [prompts, width]."""

    hidden: Tensor
    pooled: Tensor

    def rows(self, indices: Sequence[int]) -> "Embedded":
        """The given prompts, in that order."""
        chosen = torch.tensor(indices, device=self.hidden.device)
        return Embedded(self.hidden.index_select(0, chosen), self.pooled.index_select(0, chosen))


def tokens_of(tokenizers: Sequence[Any], prompts: Sequence[str]) -> list[Tensor]:
    """Token ids [prompts, 77] of each tokenizer; longer prompts are cut, as in SDXL's pipeline."""
    return [
        tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        for tokenizer in tokenizers
    ]


def too_long(tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """The prompts whose end the encoders will not see."""
    return [p for p in prompts if len(tokenizer(p).input_ids) > tokenizer.model_max_length]


def embed(encoders: Sequence[nn.Module], tokens: Sequence[Tensor]) -> Embedded:
    """Penultimate states of both encoders side by side, and the second's projected end state."""
    outputs = [
        encoder(ids.to(next(encoder.parameters()).device), output_hidden_states=True)
        for encoder, ids in zip(encoders, tokens, strict=True)
    ]
    hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return Embedded(hidden, outputs[-1].text_embeds)
