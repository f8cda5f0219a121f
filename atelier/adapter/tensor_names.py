"""The names of adapter tensors in different tools.

The canonical name of a projection's low-rank factor is that of diffusers and PEFT, with CLIP's
`text_model.`:

    unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight
    text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight
    <module>.alpha                                          optional, a scalar

Other spellings that are read:

    text_encoder.encoder.layers.0…                          transformers 5 flattened CLIPTextModel
    …to_q.lora.down.weight, …attn1.processor.to_q_lora.down.weight      diffusers before PEFT
    base_model.model.down_blocks…                           PEFT's own file of a UNet
    lora_unet_down_blocks_1_…, lora_te1_…, lora_te2_…       kohya, with diffusers' blocks
    lora_unet_input_blocks_4_1_…                            kohya, with the original SDXL blocks

This module handles strings only; it loads no files.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Part = Literal["lora_A.weight", "lora_B.weight", "alpha"]

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")

_ENDINGS: dict[str, Part] = {
    ".lora_A.weight": "lora_A.weight",
    ".lora_B.weight": "lora_B.weight",
    ".lora_A.default.weight": "lora_A.weight",
    ".lora_B.default.weight": "lora_B.weight",
    ".lora.down.weight": "lora_A.weight",
    ".lora.up.weight": "lora_B.weight",
    "_lora.down.weight": "lora_A.weight",
    "_lora.up.weight": "lora_B.weight",
    ".lora_linear_layer.down.weight": "lora_A.weight",
    ".lora_linear_layer.up.weight": "lora_B.weight",
    ".alpha": "alpha",
}
_KOHYA_ENDINGS: dict[str, Part] = {
    ".lora_down.weight": "lora_A.weight",
    ".lora_up.weight": "lora_B.weight",
    ".alpha": "alpha",
}
_TO_KOHYA = {part: ending for ending, part in _KOHYA_ENDINGS.items()}
_KOHYA_PREFIX = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}

# Recognized by name, so that an error can name the family.
_UNSUPPORTED: tuple[tuple[str, str], ...] = (
    (r"lora_magnitude_vector|dora_scale", "DoRA"),
    (r"\.hada_", "LoHa"),
    (r"\.lokr_", "LoKr"),
    (r"\.oft_|\.boft_", "OFT"),
    (r"\.lora_mid\.", "convolution LoRA (LoCon)"),
    (r"\.(lora_[AB]|lora_up|lora_down)(\.default)?\.bias$", "LoRA with biases"),
    (r"\.lora_embedding_[AB]", "LoRA on embeddings"),
    (r"\.diff(_b)?$", "full weight differences"),
    (r"\.glora_|\.[ab][12]\.weight$", "GLoRA"),
    (r"^(bundle_emb|emb_params|string_to_param)|^clip_[lg]$", "embeddings in the LoRA file"),
    (r"^lora_te3_|^lora_prior_|^(diffusion_model|transformer)\.", "another model family"),
)


@dataclass(frozen=True)
class TensorName:
    """A canonical key, split into module and part."""

    module: str  # component included: "unet.….to_q"
    part: Part

    def __str__(self) -> str:
        return f"{self.module}.{self.part}"

    @property
    def component(self) -> str:
        """`unet`, `text_encoder` or `text_encoder_2`."""
        return self.module.split(".", 1)[0]


def parse(key: str, kohya: Mapping[str, str] | None = None) -> TensorName | None:
    """Return the canonical key for a key in any spelling, or None if the key is unknown.

    kohya's names need the modules of the base: pass `kohya_modules(…)`.
    """
    if key.startswith("lora_"):
        stem, ending = _split(key, _KOHYA_ENDINGS)
        module = (kohya or {}).get(stem)
        return TensorName(module, ending) if module and ending else None
    stem, ending = _split(key, _ENDINGS)
    module = _canonical_module(stem)
    return TensorName(module, ending) if module and ending else None


def canonical(key: str) -> str | None:
    """Return the canonical key as a string, or None; does not read kohya's names."""
    name = parse(key)
    return str(name) if name else None


def unsupported(key: str) -> str | None:
    """Return the name of the unsupported adapter family of a key, or None."""
    return next((name for pattern, name in _UNSUPPORTED if re.search(pattern, key)), None)


def flat(module: str) -> str:
    """Return a module as transformers 5 names it in `CLIPTextModel`: without `text_model.`.

    `CLIPTextModelWithProjection` (SDXL's second encoder) keeps the prefix.
    """
    return module.replace(".text_model.", ".", 1) if module.startswith("text_encoder") else module


def to_kohya(key: TensorName) -> str:
    """Return kohya's name of a canonical key, with diffusers' block names."""
    return kohya_module(key.module) + _TO_KOHYA[key.part]


def kohya_module(module: str) -> str:
    """Return kohya's name of a canonical module, with diffusers' block names."""
    component, inner = module.split(".", 1)
    return f"{_KOHYA_PREFIX[component]}_{inner.replace('.', '_')}"


def kohya_modules(modules: Iterable[str]) -> dict[str, str]:
    """Return canonical modules by kohya's names, with both kinds of block names.

    Raises ValueError if two modules would share a name.
    """
    modules = tuple(modules)
    original = _original_blocks(modules)
    names: dict[str, str] = {}
    for module in modules:
        spellings = {kohya_module(module), kohya_module(original.get(module, module))}
        for name in spellings:
            if names.setdefault(name, module) != module:
                raise ValueError(f"kohya's name {name} stands for {names[name]} and {module}")
    return names


def _split(key: str, endings: Mapping[str, Part]) -> tuple[str, Part | None]:
    for ending, part in endings.items():
        if key.endswith(ending):
            return key.removesuffix(ending), part
    return key, None


def _canonical_module(stem: str) -> str | None:
    """Return the canonical module of a path, or None for other components."""
    if stem.startswith("base_model.model."):
        stem = stem.removeprefix("base_model.model.")
        if stem.split(".", 1)[0] not in COMPONENTS:
            stem = f"unet.{stem}"
    component, _, inner = stem.partition(".")
    if component not in COMPONENTS or not re.fullmatch(r"\w+(\.\w+)*", inner):
        return None
    if component == "unet":
        inner = re.sub(r"\.processor\.to_out$", ".to_out.0", inner)
        inner = inner.replace(".processor.", ".")
    elif inner.startswith(("encoder.", "embeddings.")):
        inner = f"text_model.{inner}"
    return f"{component}.{inner}"


def _original_blocks(modules: Iterable[str]) -> dict[str, str]:
    """Return UNet modules under the block names of the original SDXL code, as kohya uses them.

    In that code, down blocks are one flat list: `input_blocks.0` is the first convolution, then
    each block has its layers and an entry for its downsampler. Up blocks have one more layer each.
    """
    pattern = re.compile(r"unet\.(down|up|mid)_block(?:s\.(\d+))?\.(resnets|attentions)\.(\d+)\.")
    matches = {module: match for module in modules if (match := pattern.match(module))}
    down = [int(match[4]) for match in matches.values() if match[1] == "down"]
    up = [int(match[4]) - 1 for match in matches.values() if match[1] == "up"]
    layers = max([*down, *up], default=-1) + 1
    names = {}
    for module, match in matches.items():
        block, layer, attention = int(match[2] or 0), int(match[4]), match[3] == "attentions"
        if match[1] == "down":
            head = f"input_blocks.{1 + block * (layers + 1) + layer}.{int(attention)}"
        elif match[1] == "up":
            head = f"output_blocks.{block * (layers + 1) + layer}.{int(attention)}"
        else:
            head = f"middle_block.{1 if attention else 2 * layer}"
        names[module] = f"unet.{head}.{module[match.end() :]}"
    return names
