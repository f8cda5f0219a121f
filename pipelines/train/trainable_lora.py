"""Trainable LoRA layers, and their insertion into a network.

Follows LoRA (Hu et al. 2021) as implemented in PEFT: `y = W x + b + (alpha / rank) B A x`. A is
initialised from a normal distribution with deviation 1/rank, and B with zeros. The layer is one
autograd node of eight matrix products; PEFT's layer takes about thirty operations.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from atelier.adapter.low_rank import LoraWeights
from atelier.errors import RecipeError
from pipelines.train.draws import generator
from services.engine.banked import FrozenLinear, replace_linear
from services.engine.layout import UNET_TARGETS, canonical_path, linears

# For each target in a recipe: its component, and the suffixes of its module names.
_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")
TARGETS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{target: ("unet", UNET_TARGETS[target]) for target in ("attn", "ff", "proj")},
    "text_encoder": ("text_encoder", _TEXT),
    "text_encoder_2": ("text_encoder_2", _TEXT),
}


class _Pair(torch.autograd.Function):
    """`x W^T + b + scale (x A^T) B^T`, with gradients for x, A and B only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float
    ) -> Tensor:
        """Return [..., out_features] for `x` [..., in_features].

        `weight` is [out_features, in_features], A [rank, in_features] and B [out_features, rank].
        """
        rows = x.reshape(-1, x.shape[-1])  # [tokens, in_features]
        low = rows @ A.T  # [tokens, rank]
        y = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        y.addmm_(low, B.T, alpha=scale)
        ctx.save_for_backward(rows, weight, A, B, low)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients of the inputs of `forward`; None for inputs without a gradient."""
        rows, weight, A, B, low = ctx.saved_tensors
        dy = dy.reshape(-1, dy.shape[-1])
        dlow = (dy @ B).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ weight).addmm_(dlow, A).view(ctx.shape)
        return dx, None, None, dlow.T @ rows, (dy.T @ low).mul_(ctx.scale), None


class LoraLinear(FrozenLinear):
    """A frozen linear projection with a trainable low-rank pair in float32.

    The layer of the bank (`services.engine.banked.BankedLinear`) computes the same without
    gradients, for rows that each have their own pair. Here all rows share one pair, which needs no
    batched products.
    """

    def __init__(self, frozen: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(frozen)
        device = frozen.weight.device
        self.A = nn.Parameter(torch.empty(rank, frozen.in_features, device=device))
        self.B = nn.Parameter(torch.zeros(frozen.out_features, rank, device=device))
        self.alpha, self.scale = alpha, alpha / rank

    def forward(self, input: Tensor) -> Tensor:
        """Return [..., out_features] for `input` [..., in_features], in the dtype of the weight."""
        dtype = self.weight.dtype
        A, B = self.A.to(dtype), self.B.to(dtype)
        y: Tensor = _Pair.apply(input.to(dtype), self.weight, self.bias, A, B, self.scale)
        return y


def put_into(
    networks: Mapping[str, nn.Module], targets: Iterable[str], rank: int, alpha: float, seed: int
) -> dict[str, LoraLinear]:
    """Replace the targeted projections by `LoraLinear`; return the layers by canonical module name.

    `networks` share their weights with the base (`services.engine.banked.share`). Raises
    RecipeError if a target matches no layer.
    """
    layers: dict[str, LoraLinear] = {}
    for target in dict.fromkeys(targets):
        component, suffixes = TARGETS[target]
        projections = list(linears(networks[component], suffixes))
        if not projections:
            raise RecipeError(
                f"lora.targets: {target} matches no linear layer in the {component} of this base; "
                "remove it"
            )
        for name, linear in projections:
            layer = LoraLinear(linear, rank, alpha)
            replace_linear(networks[component], name, layer)
            layers[canonical_path(component, name)] = layer
    for module, layer in layers.items():
        noise = torch.randn(layer.A.shape, generator=generator(seed, "init", module))
        layer.A.data.copy_(noise / rank)
    return dict(sorted(layers.items()))


def weights_of(layers: Mapping[str, LoraLinear]) -> dict[str, LoraWeights]:
    """Return copies of the current pairs on the host, float32, by canonical module name."""
    return {
        module: LoraWeights(_numpy(layer.A), _numpy(layer.B), layer.alpha)
        for module, layer in layers.items()
    }


def tensors_of(layers: Mapping[str, LoraLinear]) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by canonical key (see atelier/adapter/tensor_names.py)."""
    named: dict[str, nn.Parameter] = {}
    for module, layer in layers.items():
        named[f"{module}.lora_A.weight"] = layer.A
        named[f"{module}.lora_B.weight"] = layer.B
    return named


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().to("cpu", torch.float32, copy=True).numpy()
