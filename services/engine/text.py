"""Prompts to embeddings, as StableDiffusionXLPipeline makes them, with adapters on the encoders.

Arrangement after diffusers' `encode_prompt`: the penultimate states of both encoders side by side,
and the pooled, projected state of the second.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from services.engine.bank import BankView
from services.engine.banked import Binding, bank_projections, share
from services.engine.base import Base
from services.engine.layout import Layout


@dataclass(frozen=True)
class Embedding:
    """One encoded prompt."""

    text: Tensor  # [token, features]
    pooled: Tensor  # [features]

    def zeros(self) -> Embedding:
        """What SDXL takes for an absent negative prompt (`force_zeros_for_empty_prompt`)."""
        return Embedding(torch.zeros_like(self.text), torch.zeros_like(self.pooled))


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Token ids int64 [prompt, token], padded and cut to what the encoder reads."""
    ids: Tensor = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids


def dropped(tokenizer: Any, prompt: str) -> tuple[int, str]:
    """The prompt's number of tokens, and the text that no longer fits ("" where all fits)."""
    ids: list[int] = tokenizer(prompt, truncation=False, verbose=False).input_ids
    room = tokenizer.model_max_length
    if len(ids) <= room:
        return len(ids), ""
    return len(ids), str(tokenizer.decode(ids[room - 1 : -1]))


def encode(encoders: Sequence[Any], ids: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Both encoders' penultimate states [prompt, token, features] and the pooled [prompt, p].

    The trainer uses it with encoders of its own; gradients flow where they are enabled.
    """
    outputs = [
        encoder(tokens.to(encoder.device), output_hidden_states=True)
        for encoder, tokens in zip(encoders, ids, strict=True)
    ]
    text = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return text, outputs[-1].text_embeds


def encode_prompts(base: Base, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """A base's own embeddings of prompts, without adapters; shapes as `encode` has them."""
    ids = [tokenize(t, prompts) for t in (base.tokenizer, base.tokenizer_2)]
    return encode((base.text_encoder, base.text_encoder_2), ids)


class TextEncoders:
    """Both encoders of a base, reading the bank, with a bounded memory of what was encoded."""

    def __init__(self, base: Base, layout: Layout, *, remembered: int = 256) -> None:
        """Keeps the last `remembered` encoded prompts on the base's device."""
        self._tokenizers = (base.tokenizer, base.tokenizer_2)
        self._binding = Binding()
        self._encoders = []
        for component in ("text_encoder", "text_encoder_2"):
            encoder = share(getattr(base, component))
            bank_projections(encoder, layout.of(component), self._binding)
            self._encoders.append(encoder)
        self._device = base.device
        self._memory: OrderedDict[Hashable, Embedding] = OrderedDict()
        self._remembered = remembered

    def embed(
        self, prompts: Sequence[str], weights: Hashable, slot: int, bank: BankView
    ) -> list[Embedding]:
        """Embeddings of prompts under one slot of the bank, encoded or remembered.

        `weights` names for the memory what acts on the encoders in that slot.
        """
        missing = [p for p in dict.fromkeys(prompts) if (p, weights) not in self._memory]
        if missing:
            ids = [tokenize(tokenizer, missing) for tokenizer in self._tokenizers]
            self._binding.set(torch.full((len(missing),), slot, device=self._device), bank)
            rows = zip(missing, *encode(self._encoders, ids), strict=True)
            self._memory.update({(p, weights): Embedding(t, q) for p, t, q in rows})
        found = [self._memory[prompt, weights] for prompt in prompts]
        for prompt in prompts:
            self._memory.move_to_end((prompt, weights))
        while len(self._memory) > self._remembered:
            self._memory.popitem(last=False)
        return found

    def warnings(self, prompt: str, name: str = "prompt") -> list[str]:
        """Sentences about the words of a prompt that an encoder does not read, for want of room."""
        found = []
        for tokenizer in self._tokenizers:
            length, text = dropped(tokenizer, prompt)
            if text:
                found.append(
                    f"{name}: {length} tokens, the text encoders read "
                    f"{tokenizer.model_max_length}; not read: {text!r}"
                )
        return list(dict.fromkeys(found))
