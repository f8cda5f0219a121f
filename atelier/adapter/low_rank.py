"""From the tensors of a file to the low-rank pairs that they mean, each with its true scale."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from atelier.adapter import tensor_names
from atelier.adapter.safetensors_file import Array, Tensor
from atelier.errors import AdapterRejected

METADATA_KEY = "lora_adapter_metadata"  # as diffusers writes it into the header


@dataclass(frozen=True)
class LoraWeights:
    """One projection's update: `(alpha / rank) * B @ A`.

    The factors of a stored adapter are read from its file each time that `A` or `B` is asked for,
    so that a whole adapter never has to lie in memory.
    """

    down: Tensor  # [rank, in_features]
    up: Tensor  # [out_features, rank]
    alpha: float

    @property
    def A(self) -> Array:  # noqa: N802 (as the paper writes it)
        """The values of `down`: [rank, in_features], float32."""
        return np.asarray(self.down)

    @property
    def B(self) -> Array:  # noqa: N802
        """The values of `up`: [out_features, rank], float32."""
        return np.asarray(self.up)

    @property
    def rank(self) -> int:
        """The number of rows of A."""
        return int(self.down.shape[0])

    @property
    def in_features(self) -> int:
        """The width of the projection's input."""
        return int(self.down.shape[1])

    @property
    def out_features(self) -> int:
        """The width of the projection's output."""
        return int(self.up.shape[0])

    @property
    def scale(self) -> float:
        """What `B @ A` is multiplied by."""
        return self.alpha / self.rank


def pair_up(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    place: str,
    kohya: Mapping[str, str] | None = None,
) -> dict[str, LoraWeights]:
    """The pairs of a file by canonical module, sorted; AdapterRejected names what has no place.

    `place` is the file, for the errors. Alphas come from diffusers' header metadata or from
    `.alpha` keys; with neither, the scale is 1, as diffusers and PEFT have it.
    """
    parts = _sorted_parts(tensors, place, kohya)
    config = _config(metadata, place)
    found, broken = {}, []
    for module in sorted(parts):
        a, b = parts[module].get("lora_A.weight"), parts[module].get("lora_B.weight")
        if a is None or b is None:
            broken.append(f"{module} (only {', '.join(sorted(parts[module]))})")
        elif a.ndim != 2 or b.ndim != 2:
            broken.append(f"{module} (convolution LoRA, {a.ndim} dimensions)")
        elif a.shape[0] != b.shape[1] or 0 in (*a.shape, *b.shape):
            broken.append(f"{module} (A {a.shape} and B {b.shape} do not multiply)")
        else:
            alpha = _alpha(module, parts[module].get("alpha"), a.shape[0], config, place)
            found[module] = LoraWeights(a, b, alpha)
    if broken:
        raise AdapterRejected(
            f"{place}: cannot be served whole: {'; '.join(broken[:8])}"
            f"{' …' if len(broken) > 8 else ''}; "
            "train or export it as LoRA on linear projections, with both factors of each"
        )
    return found


def header_metadata(lora: Mapping[str, LoraWeights]) -> dict[str, str]:
    """The header with which diffusers' `load_lora_weights` gives every pair its scale."""
    config: dict[str, Any] = {}
    for component in tensor_names.COMPONENTS:
        inside = {
            tensor_names.flat(module).removeprefix(f"{component}."): weights
            for module, weights in sorted(lora.items())
            if module.startswith(f"{component}.")
        }
        for field, value in _peft_config(inside).items() if inside else ():
            config[f"{component}.{field}"] = value
    return {METADATA_KEY: json.dumps(config, indent=2, sort_keys=True)} if config else {}


def nominal(lora: Mapping[str, LoraWeights]) -> tuple[int, float]:
    """The rank and alpha that a manifest tells: those of the (first) projection of highest rank."""
    if not lora:
        return 0, 0.0
    widest = max(lora.values(), key=lambda weights: weights.rank)
    return widest.rank, widest.alpha


def _sorted_parts(
    tensors: Mapping[str, Tensor], place: str, kohya: Mapping[str, str] | None
) -> dict[str, dict[str, Tensor]]:
    """Tensors by module and part; unknown and doubled keys are refused by name."""
    parts: dict[str, dict[str, Tensor]] = {}
    unknown, twice = [], []
    for name, value in tensors.items():
        key = None if tensor_names.unsupported(name) else tensor_names.parse(name, kohya)
        if key is None:
            unknown.append(name)
        elif key.part in parts.setdefault(key.module, {}):
            twice.append(name)
        else:
            parts[key.module][key.part] = value
    if unknown:
        families = sorted(
            {family for name in unknown if (family := tensor_names.unsupported(name))}
        )
        what = f" ({', '.join(families)})" if families else ""
        raise AdapterRejected(
            f"{place}: {len(unknown)} keys cannot be served{what}: {', '.join(unknown[:8])}"
            f"{' …' if len(unknown) > 8 else ''}; "
            "plain LoRA on SDXL's UNet and text encoders is what can be"
        )
    if twice:
        raise AdapterRejected(f"{place}: tensors given twice under two names: {', '.join(twice)}")
    return parts


def _config(metadata: Mapping[str, str], place: str) -> dict[str, Any]:
    """diffusers' adapter metadata, with what would change the meaning of the tensors refused."""
    text = metadata.get(METADATA_KEY)
    if text is None:
        return {}
    try:
        config = json.loads(text)
    except ValueError as error:
        raise AdapterRejected(f"{place}: {METADATA_KEY} in its header is not JSON") from error
    if not isinstance(config, dict):
        raise AdapterRejected(f"{place}: {METADATA_KEY} in its header is not a JSON object")
    for component in tensor_names.COMPONENTS:
        for field, family in (("use_dora", "DoRA"), ("lora_bias", "LoRA with biases")):
            if config.get(f"{component}.{field}"):
                raise AdapterRejected(f"{place}: {component} uses {family}, which is not served")
    return config


def _alpha(
    module: str, key: Tensor | None, rank: int, config: Mapping[str, Any], place: str
) -> float:
    """The alpha of one pair; where header and key both speak, they must agree."""
    alphas = []
    if key is not None:
        if key.size != 1:
            raise AdapterRejected(f"{place}: {module}.alpha has {key.size} values instead of one")
        alphas.append(float(np.asarray(key).reshape(())))
    component, inner = module.split(".", 1)
    if f"{component}.lora_alpha" in config:
        pattern = config.get(f"{component}.alpha_pattern") or {}
        told = _lookup(pattern, inner, config[f"{component}.lora_alpha"])
        if type(told) not in (int, float) or not np.isfinite(told):
            raise AdapterRejected(f"{place}: {METADATA_KEY} gives {module} the alpha {told!r}")
        # Rank-stabilised LoRA divides by the root of the rank.
        stabilised = bool(config.get(f"{component}.use_rslora"))
        alphas.append(float(told) * (float(np.sqrt(rank)) if stabilised else 1.0))
    if len(alphas) == 2 and not np.isclose(alphas[0], alphas[1]):
        raise AdapterRejected(
            f"{place}: {module} has alpha {alphas[0]:g} by its key, {alphas[1]:g} by the header"
        )
    return alphas[-1] if alphas else float(rank)


def _lookup(pattern: Any, inner: str, default: Any) -> Any:
    """PEFT's pattern lookup for names as diffusers writes them: whole names or endings of them."""
    if not isinstance(pattern, dict):
        return default
    names = (inner, inner.removeprefix("text_model."))
    for key, value in pattern.items():
        plain = key.removeprefix("^").replace("\\.", ".")
        if any(name == plain or name.endswith(f".{plain}") for name in names):
            return value
    return default


def _peft_config(inside: Mapping[str, LoraWeights]) -> dict[str, Any]:
    """What `peft.LoraConfig` needs to build these pairs, and nothing that changes with its version.

    Text encoders' modules are named without `text_model.`: PEFT matches endings of names, so the
    short one fits both the flattened encoder of transformers 5 and the one that is not.
    """
    rank, alpha = nominal(inside)
    return {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(inside),
        "rank_pattern": {name: one.rank for name, one in inside.items() if one.rank != rank},
        "alpha_pattern": {name: one.alpha for name, one in inside.items() if one.alpha != alpha},
        "lora_dropout": 0.0,
        "bias": "none",
    }
