"""Low-rank pairs, assembled from the tensors of a file, each with its scale."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from atelier.adapter import tensor_names
from atelier.adapter.safetensors_file import Array, Tensor
from atelier.errors import AdapterRejected

METADATA_KEY = "lora_adapter_metadata"  # in the header, written by diffusers
_FIX = "export the adapter again"


@dataclass(frozen=True)
class LoraWeights:
    """One projection's update: `(alpha / rank) * B @ A`.

    The factors of a stored adapter are read from its file at each access to `A` or `B`, so a whole
    adapter need not fit into memory. Source: Hu et al., "LoRA", arXiv:2106.09685.
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
        """The factor of `B @ A`: `alpha / rank`."""
        return self.alpha / self.rank


def pair_up(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    place: str,
    kohya: Mapping[str, str] | None = None,
) -> dict[str, LoraWeights]:
    """Return the pairs of a file by canonical module, sorted.

    `place` names the file in errors. Alphas come from diffusers' header metadata or from `.alpha`
    keys; without either, the scale is 1, as in diffusers and PEFT. Raises AdapterRejected, with the
    names of the tensors, if some cannot be used.
    """
    parts = _sorted_parts(tensors, place, kohya)
    config = _config(metadata, place)
    pairs, broken = {}, []
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
            pairs[module] = LoraWeights(a, b, alpha)
    if broken:
        raise AdapterRejected(
            f"{place}: some projections cannot be served: {'; '.join(broken[:8])}"
            f"{' …' if len(broken) > 8 else ''}; "
            "train or export the adapter as LoRA on linear projections, with both factors of each "
            "one"
        )
    return pairs


def header_metadata(lora: Mapping[str, LoraWeights]) -> dict[str, str]:
    """Return the header from which diffusers' `load_lora_weights` reads the scale of each pair."""
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
    """Return rank and alpha for a manifest: taken from the first projection of the highest rank."""
    if not lora:
        return 0, 0.0
    widest = max(lora.values(), key=lambda weights: weights.rank)
    return widest.rank, widest.alpha


def _sorted_parts(
    tensors: Mapping[str, Tensor], place: str, kohya: Mapping[str, str] | None
) -> dict[str, dict[str, Tensor]]:
    """Return tensors by module and part. Raises AdapterRejected for unknown and duplicate keys."""
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
        hint = f" ({', '.join(families)})" if families else ""
        raise AdapterRejected(
            f"{place}: {len(unknown)} keys cannot be served{hint}: {', '.join(unknown[:8])}"
            f"{' …' if len(unknown) > 8 else ''}; "
            "only plain LoRA on SDXL's UNet and text encoders is supported"
        )
    if twice:
        raise AdapterRejected(
            f"{place}: tensors that are also stored under another name: {', '.join(twice)}; export "
            "the adapter again with one name for each tensor"
        )
    return parts


def _config(metadata: Mapping[str, str], place: str) -> dict[str, Any]:
    """Return diffusers' adapter metadata. Raises AdapterRejected for unsupported LoRA variants."""
    text = metadata.get(METADATA_KEY)
    if text is None:
        return {}
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterRejected(
            f"{place}: {METADATA_KEY} in the header is not JSON; {_FIX}"
        ) from error
    if not isinstance(config, dict):
        raise AdapterRejected(f"{place}: {METADATA_KEY} in the header is not a JSON object; {_FIX}")
    for component in tensor_names.COMPONENTS:
        for field, family in (("use_dora", "DoRA"), ("lora_bias", "LoRA with biases")):
            if config.get(f"{component}.{field}"):
                raise AdapterRejected(
                    f"{place}: {component} uses {family}, which is not supported; train plain LoRA"
                )
    return config


def _alpha(
    module: str, key: Tensor | None, rank: int, config: Mapping[str, Any], place: str
) -> float:
    """Return the alpha of one pair. If header and key both give an alpha, the two must agree."""
    alphas = []
    if key is not None:
        if key.size != 1:
            raise AdapterRejected(
                f"{place}: {module}.alpha has {key.size} values instead of one; {_FIX}"
            )
        alphas.append(float(np.asarray(key).reshape(())))
    component, inner = module.split(".", 1)
    if f"{component}.lora_alpha" in config:
        pattern = config.get(f"{component}.alpha_pattern") or {}
        value = _lookup(pattern, inner, config[f"{component}.lora_alpha"])
        number = _finite(value)
        if number is None:
            raise AdapterRejected(
                f"{place}: {METADATA_KEY}: alpha {value!r:.40} of {module} is invalid; {_FIX}"
            )
        # Rank-stabilised LoRA divides by the root of the rank.
        stabilised = bool(config.get(f"{component}.use_rslora"))
        alphas.append(number * (float(np.sqrt(rank)) if stabilised else 1.0))
    if len(alphas) == 2 and not np.isclose(alphas[0], alphas[1]):
        raise AdapterRejected(
            f"{place}: {module} has alpha {alphas[0]:g} in its key, but {alphas[1]:g} in the "
            f"header; {_FIX}"
        )
    return alphas[-1] if alphas else float(rank)


def _finite(value: Any) -> float | None:
    """Return a number of a JSON text as a float; None for another type, NaN and infinity."""
    if type(value) not in (int, float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond floats
        return None
    return number if math.isfinite(number) else None


def _lookup(pattern: Any, inner: str, default: Any) -> Any:
    """Look up a module in PEFT's `alpha_pattern`, whose keys are full names or endings of names."""
    if not isinstance(pattern, dict):
        return default
    names = (inner, inner.removeprefix("text_model."))
    for key, value in pattern.items():
        plain = key.removeprefix("^").replace("\\.", ".")
        if any(name == plain or name.endswith(f".{plain}") for name in names):
            return value
    return default


def _peft_config(inside: Mapping[str, LoraWeights]) -> dict[str, Any]:
    """Return the fields of `peft.LoraConfig` that these pairs need and that all versions share.

    Modules of text encoders are named without `text_model.`: PEFT matches endings of names, so the
    short name fits both the flattened encoder of transformers 5 and the unflattened one.
    """
    rank, alpha = nominal(inside)
    return {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(inside),
        "rank_pattern": {name: pair.rank for name, pair in inside.items() if pair.rank != rank},
        "alpha_pattern": {name: pair.alpha for name, pair in inside.items() if pair.alpha != alpha},
        "lora_dropout": 0.0,
        "bias": "none",
    }
