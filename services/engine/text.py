"""Encode prompts as StableDiffusionXLPipeline does, with adapters on the text encoders.

As in diffusers' `StableDiffusionXLPipeline.encode_prompt`, the penultimate hidden states of both
encoders are concatenated, and the pooled embedding is the projected embedding of the second
encoder.
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
    """One encoded prompt, in the dtype and on the device of the encoders."""

    text: Tensor  # [token, features]
    pooled: Tensor  # [features]

    def zeros(self) -> Embedding:
        """Return zeros, for an absent negative prompt (`force_zeros_for_empty_prompt` of SDXL)."""
        return Embedding(torch.zeros_like(self.text), torch.zeros_like(self.pooled))


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Return token ids int64 [prompt, token], padded and cut to the length of the encoder."""
    ids: Tensor = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids


def dropped(tokenizer: Any, prompt: str) -> tuple[int, str]:
    """Return the number of tokens of a prompt, and the text that the encoder does not read."""
    ids: list[int] = tokenizer(prompt, truncation=False, verbose=False).input_ids
    limit = tokenizer.model_max_length
    if len(ids) <= limit:
        return len(ids), ""
    return len(ids), str(tokenizer.decode(ids[limit - 1 : -1]))


def encode(encoders: Sequence[Any], ids: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Encode token ids int64 [prompt, token], one tensor per encoder.

    Return the concatenated penultimate states [prompt, token, features] and the pooled embedding
    [prompt, features], both in the encoders' dtype. The trainer calls it with trainable encoders:
    gradients are kept if they are enabled.
    """
    outputs = [
        encoder(tokens.to(encoder.device), output_hidden_states=True)
        for encoder, tokens in zip(encoders, ids, strict=True)
    ]
    text = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return text, outputs[-1].text_embeds


def encode_prompts(base: Base, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Encode prompts with the base alone, without adapters; shapes as in `encode`."""
    ids = [tokenize(tokenizer, prompts) for tokenizer in (base.tokenizer, base.tokenizer_2)]
    return encode((base.text_encoder, base.text_encoder_2), ids)


class TextEncoders:
    """Both text encoders of a base. They read the bank and have an LRU cache of embeddings."""

    def __init__(self, base: Base, layout: Layout, *, cached: int = 256) -> None:
        """Share the encoders of `base`. Cache at most `cached` encoded prompts on its device."""
        self._tokenizers = (base.tokenizer, base.tokenizer_2)
        self._binding = Binding()
        self._encoders = []
        for component in ("text_encoder", "text_encoder_2"):
            encoder = share(getattr(base, component))
            bank_projections(encoder, layout.of(component), self._binding)
            self._encoders.append(encoder)
        self._device = base.device
        self._cache: OrderedDict[Hashable, Embedding] = OrderedDict()
        self._limit = cached

    def embed(
        self, prompts: Sequence[str], weights: Hashable, slot: int, bank: BankView
    ) -> list[Embedding]:
        """Return the embeddings of prompts for one slot of the bank, from the cache if possible.

        `weights` is the cache key of the adapter weights in the slot that act on the encoders.
        """
        missing = [
            prompt for prompt in dict.fromkeys(prompts) if (prompt, weights) not in self._cache
        ]
        if missing:
            ids = [tokenize(tokenizer, missing) for tokenizer in self._tokenizers]
            self._binding.set(torch.full((len(missing),), slot, device=self._device), bank)
            rows = zip(missing, *encode(self._encoders, ids), strict=True)
            self._cache.update(
                {(prompt, weights): Embedding(text, pooled) for prompt, text, pooled in rows}
            )
        embeddings = [self._cache[prompt, weights] for prompt in prompts]
        for prompt in prompts:
            self._cache.move_to_end((prompt, weights))
        while len(self._cache) > self._limit:
            self._cache.popitem(last=False)
        return embeddings

    def warnings(self, prompt: str, name: str = "prompt") -> list[str]:
        """Return a warning for each encoder that truncates the prompt of the field `name`."""
        warnings = []
        for tokenizer in self._tokenizers:
            length, text = dropped(tokenizer, prompt)
            if text:
                warnings.append(
                    f"{name}: has {length} tokens, but the text encoders read "
                    f"{tokenizer.model_max_length}; not read: {text!r}"
                )
        return list(dict.fromkeys(warnings))
