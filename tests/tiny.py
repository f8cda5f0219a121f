"""Tiny random SDXL pipelines and adapters, so that tests run the real loaders in seconds.

Nothing here is learned: the weights are drawn from a seed. The architecture keeps SDXL's
asymmetries (two text encoders of different width and activation, two tokenizers that pad
differently, zeros for an absent negative prompt, four latent channels, f = 8) at 64 pixels and less
than half a million parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from atelier.adapter.package import write_package
from atelier.data.manifest import BaseRef
from atelier.stores.base_files import base_digest

CAPTIONS = (
    "a an the of on in at photo picture cat dog robot fish house flower hat beach forest city snow "
    "red blue green yellow small big sks thor striped night blurry"
)
WORDS = CAPTIONS.split()
TOKENS = 77
EMBED = {"text_encoder": 16, "text_encoder_2": 24}


def _bytes_to_unicode() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]


def _bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a real CLIP byte-pair tokenizer that knows most of WORDS whole."""
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
            pieces[:2] = ["".join(pair)]
    symbols = _bytes_to_unicode()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *("".join(m) for m in merges)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return vocabulary, merges


def _tokenizer(folder: Path, pad: str) -> Any:
    from transformers import CLIPTokenizer

    vocabulary, merges = _bpe()
    tokenizer = CLIPTokenizer(
        vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=TOKENS
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _text_encoder(kind: str, tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    second = kind == "text_encoder_2"
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=EMBED[kind],
        intermediate_size=2 * EMBED[kind],
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=EMBED["text_encoder_2"],
        hidden_act="gelu" if second else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = (CLIPTextModelWithProjection if second else CLIPTextModel)(config)
    with torch.no_grad():  # CLIP's 0.02 leaves prompts nearly alike; these must tell apart
        for name, parameter in model.named_parameters():
            if "embedding" in name:
                parameter.normal_(0.0, 0.5)
    return model


def _unet() -> Any:
    from diffusers import UNet2DConditionModel

    time_dim = 8
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_dim,
        projection_class_embeddings_input_dim=EMBED["text_encoder_2"] + 6 * time_dim,
        cross_attention_dim=sum(EMBED.values()),
        norm_num_groups=8,
    )
    with torch.no_grad():  # a noise prediction of the size of noise
        unet.conv_out.weight.mul_(3.0)
    return unet


def _vae() -> Any:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.5,
        mid_block_add_attention=False,
    )
    with torch.no_grad():  # pictures with contrast
        vae.decoder.conv_out.weight.mul_(2.0)
    return vae


def tiny_base(folder: Path, seed: int = 0) -> Path:
    """Saves a random tiny SDXL pipeline in diffusers' format under `folder` and returns it."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer(folder / "tokenizer", "<|endoftext|>")
        tokenizer_2 = _tokenizer(folder / "tokenizer_2", "!")
        pipeline = StableDiffusionXLPipeline(
            vae=_vae(),
            text_encoder=_text_encoder("text_encoder", tokenizer),
            text_encoder_2=_text_encoder("text_encoder_2", tokenizer_2),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=_unet(),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                timestep_spacing="leading",
                steps_offset=1,
            ),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


ENDINGS = {
    "attn": ("to_q", "to_k", "to_v", "to_out.0"),
    "ff": ("ff.net.0.proj", "ff.net.2"),
    "proj": ("proj_in", "proj_out"),
    "time": ("_embedding.linear_1", "_embedding.linear_2"),
    "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj"),
}
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}


def _projections(base: Path, targets: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Canonical module, out and in features of the targeted layers, from the files' headers."""
    unet_endings = tuple(e for t in targets if t != "text_encoder" for e in ENDINGS[t])
    for component, file in WEIGHTS.items():
        endings = unet_endings if component == "unet" else ENDINGS["text_encoder"]
        if component != "unet" and "text_encoder" not in targets:
            continue
        with safe_open(base / component / file, framework="numpy") as weights:
            for key in sorted(weights.keys()):
                module, _, kind = key.rpartition(".")
                shape = weights.get_slice(key).get_shape()
                if kind == "weight" and len(shape) == 2 and module.endswith(endings):
                    inner = module.removeprefix("text_model.")
                    prefix = component if component == "unet" else f"{component}.text_model"
                    yield f"{prefix}.{inner}", shape[0], shape[1]


def tiny_adapter(
    base: Path,
    folder: Path,
    *,
    name: str = "tiny",
    rank: int = 4,
    alpha: float | None = None,
    seed: int = 0,
    scale: float = 0.5,
    targets: Sequence[str] = ("attn",),
    trigger: str = "sks cat",
    noun: str | None = "cat",
) -> Path:
    """Writes a package of random weights with a plain effect, and returns its folder.

    `scale` (times alpha/rank) is the size of the change against a layer's own output: from about
    1.4 on, the tiny UNet turns chaotic and magnifies rounding. Without `alpha`, alpha is the rank.
    Works on any base in diffusers' format, for its shapes come from the files.
    """
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for module, out_features, in_features in _projections(base, targets):
        down = random.standard_normal((rank, in_features)) / np.sqrt(in_features)
        up = random.standard_normal((out_features, rank)) * scale / np.sqrt(rank)
        tensors[f"{module}.lora_A.weight"] = down.astype(np.float32)
        tensors[f"{module}.lora_B.weight"] = up.astype(np.float32)
    write_package(
        folder,
        tensors,
        name=name,
        base=BaseRef(id=str(base.name), digest=base_digest(base)),
        alpha=alpha,
        targets=tuple(targets),
        trigger=trigger,
        noun=noun,
    )
    return folder
