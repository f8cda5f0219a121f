"""The CLIP byte-pair tokenizers, trained on captions, and the two text encoders.

As in SDXL, the two encoders differ in width, activation, projection and padding: the first pads a
short prompt with the end token, the second with `!`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .files import replacing
from .world import caption, common_scene

LENGTH: Final[int] = 77
_START: Final[str] = "<|startoftext|>"
_END: Final[str] = "<|endoftext|>"
_MERGED_WORDS: Final[int] = 256
# Words of prompts that are in no caption. They get tokens, but the embeddings stay untrained.
_PROMPT_WORDS: Final[str] = "close up portrait high quality best detailed cute style of the and"


def new_tokenizers() -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Return the two tokenizers; they have the same vocabulary but different padding."""
    vocabulary, merges = _learn_pairs(_corpus())
    first, second = (
        CLIPTokenizer(vocabulary, merges, pad_token=pad, model_max_length=LENGTH)
        for pad in (_END, "!")
    )
    return first, second


def settled_tokenizers(work: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Return the tokenizers in `work`, after creating them if they do not exist.

    The tokenizers are stored, because another training may order pairs of equal frequency
    differently.
    """
    folders = [work / "tokenizer", work / "tokenizer_2"]
    if not folders[-1].exists():
        for tokenizer, folder in zip(new_tokenizers(), folders, strict=True):
            with replacing(folder) as aside:
                tokenizer.save_pretrained(aside)
    first, second = (CLIPTokenizer.from_pretrained(folder) for folder in folders)
    return first, second


def _corpus() -> list[str]:
    rng = Random("words")
    scenes = [common_scene(rng) for _ in range(4000)]
    return [caption(scene, rng) for scene in scenes] + [_PROMPT_WORDS] * 40


def _learn_pairs(texts: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary and the merged pairs, in the layout of CLIP.

    The vocabulary is every byte, every byte at the end of a word, the merged pairs, and the start
    and end tokens.
    """
    bare = CLIPTokenizer().backend_tokenizer  # for CLIP's normalizer and word splitting
    bare.model = models.BPE(end_of_word_suffix="</w>", unk_token=_END)
    byte_signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(byte_signs) + _MERGED_WORDS,
        initial_alphabet=byte_signs,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bare.train_from_iterator(texts, trainer)
    merges = _merges(bare)
    merged = ["".join(pair) for pair in merges]
    tokens = [*byte_signs, *(f"{sign}</w>" for sign in byte_signs), *merged, _START, _END]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in merges)
    return [(first, second) for first, second in pairs]


@dataclass
class MiniatureTextEncoders:
    """The two text encoders, combined as in SDXL."""

    first: CLIPTextModel
    second: CLIPTextModelWithProjection

    def __call__(self, ids: torch.Tensor, ids_2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return states [batch, 77, 160] and pooled [batch, 96], for two int64 [batch, 77]."""
        first = self.first(ids, output_hidden_states=True)
        second = self.second(ids_2, output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return states, second.text_embeds


def new_text_encoders(tokenizer: CLIPTokenizer) -> MiniatureTextEncoders:
    """Return untrained small text encoders with the structure and differences of SDXL's two."""
    shared = {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    first = CLIPTextConfig(
        hidden_size=64, intermediate_size=256, projection_dim=64, hidden_act="quick_gelu", **shared
    )
    second = CLIPTextConfig(
        hidden_size=96, intermediate_size=384, projection_dim=96, hidden_act="gelu", **shared
    )
    return MiniatureTextEncoders(CLIPTextModel(first), CLIPTextModelWithProjection(second))


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Return token ids, int64 [count, 77], padded and truncated as in the diffusers pipelines."""
    return tokenizer(
        texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    ).input_ids
