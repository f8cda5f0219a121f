"""The low-rank pair beside a frozen projection, and the network it is put into.

Follows LoRA (Hu et al. 2021) as PEFT has it: `y = W x + b + (alpha / rank) B A x`, with A drawn
from a normal distribution of deviation 1/rank and B zero. It is one autograd node of eight matrix
products, where PEFT's layer takes some thirty operations.
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

# Ends of module names, by the recipe's targets, below the component they belong to.
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
        rows = x.reshape(-1, x.shape[-1])  # [tokens, in_features]
        low = rows @ A.T  # [tokens, rank]
        y = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        y.addmm_(low, B.T, alpha=scale)
        ctx.save_for_backward(rows, weight, A, B, low)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, weight, A, B, low = ctx.saved_tensors
        dy = dy.reshape(-1, dy.shape[-1])
        dlow = (dy @ B).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (dy @ weight).addmm_(dlow, A).view(ctx.shape)
        return dx, None, None, dlow.T @ rows, (dy.T @ low).mul_(ctx.scale), None


class LoraLinear(FrozenLinear):
    """A frozen linear projection with its trainable pair; the pair is kept in float32.

    The bank's layer (`services.engine.banked.BankedLinear`) computes the same for rows with a pair
    each and no gradients; one pair for all rows needs no batched products.
    """

    def __init__(self, frozen: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(frozen)
        device = frozen.weight.device
        self.A = nn.Parameter(torch.empty(rank, frozen.in_features, device=device))
        self.B = nn.Parameter(torch.zeros(frozen.out_features, rank, device=device))
        self.alpha, self.scale = alpha, alpha / rank

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] → [..., out_features], in the frozen weight's dtype."""
        dtype = self.weight.dtype
        A, B = self.A.to(dtype), self.B.to(dtype)
        y: Tensor = _Pair.apply(input.to(dtype), self.weight, self.bias, A, B, self.scale)
        return y


def put_into(
    networks: Mapping[str, nn.Module], targets: Iterable[str], rank: int, alpha: float, seed: int
) -> dict[str, LoraLinear]:
    """Replaces the projections that `targets` mean; returns the new layers by canonical module.

    `networks` share their weights with the base (`services.engine.banked.share`). RecipeError
    where a target matches nothing.
    """
    layers: dict[str, LoraLinear] = {}
    for target in dict.fromkeys(targets):
        component, ends = TARGETS[target]
        found = list(linears(networks[component], ends))
        if not found:
            raise RecipeError(
                f"lora.targets: {target} matches no linear layer of this base's {component}; "
                "leave it out"
            )
        for name, linear in found:
            layer = LoraLinear(linear, rank, alpha)
            replace_linear(networks[component], name, layer)
            layers[canonical_path(component, name)] = layer
    for module, layer in layers.items():
        noise = torch.randn(layer.A.shape, generator=generator(seed, "init", module))
        layer.A.data.copy_(noise / rank)
    return dict(sorted(layers.items()))


def weights_of(layers: Mapping[str, LoraLinear]) -> dict[str, LoraWeights]:
    """The pairs as they are now, on the host."""
    return {
        module: LoraWeights(_numpy(layer.A), _numpy(layer.B), layer.alpha)
        for module, layer in layers.items()
    }


def tensors_of(layers: Mapping[str, LoraLinear]) -> dict[str, nn.Parameter]:
    """The trainable parameters by canonical key."""
    named: dict[str, nn.Parameter] = {}
    for module, layer in layers.items():
        named[f"{module}.lora_A.weight"] = layer.A
        named[f"{module}.lora_B.weight"] = layer.B
    return named


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().to("cpu", torch.float32, copy=True).numpy()
