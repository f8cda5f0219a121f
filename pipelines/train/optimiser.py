"""The optimiser: update rule, learning rates, loss scaling, and the state for a resume."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import nn

from atelier.data.recipe import TrainSpec
from atelier.errors import RecipeError
from pipelines.train.flat_parameters import FlatParameters

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
UP = ".lora_B.weight"  # suffix of the canonical key of a B


class Optimiser:
    """AdamW over flat parameters, with a schedule, clipping, and loss scaling in fp16.

    The learning rate of every B is `lr_ratio` times that of the other parameters (LoRA+, Hayou et
    al. 2024).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], spec: TrainSpec) -> None:
        ratios = {n: spec.lr_ratio if n.endswith(UP) else 1.0 for n in parameters}
        distinct = sorted(set(ratios.values()))
        self.parameters = FlatParameters(
            [{n: p for n, p in parameters.items() if ratios[n] == ratio} for ratio in distinct]
        )
        self.max_norm = spec.max_grad_norm
        device = self.parameters.values.device
        self.rule = _rule(
            spec,
            [
                {"params": [group], "lr": ratio * spec.lr}
                for group, ratio in zip(self.parameters.groups, distinct, strict=True)
            ],
        )
        self.schedule = get_scheduler(
            spec.schedule,
            self.rule,
            step_rules=spec.step_rules,
            num_warmup_steps=spec.warmup,
            num_training_steps=spec.steps,
            num_cycles=spec.cycles,
            power=spec.power,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=spec.precision == "fp16")

    @property
    def rate(self) -> float:
        """The learning rate of the next update, of the first parameter group."""
        return float(self.rule.param_groups[0]["lr"])

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of the loss to the accumulated gradients."""
        self.scaler.scale(loss).backward()

    def update(self) -> torch.Tensor:
        """Apply the accumulated gradients, reset them, and return their norm before clipping."""
        self.scaler.unscale_(self.rule)
        gradient = self.parameters.gradient
        norm = torch.linalg.vector_norm(gradient)
        gradient.mul_((self.max_norm / (norm + 1e-6)).clamp(max=1.0))
        self.scaler.step(self.rule)
        self.scaler.update()
        self.schedule.step()
        gradient.zero_()
        return norm

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, except the parameters."""
        return {
            "rule": self.rule.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self.rule.load_state_dict(state["rule"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def check_precision(precision: str, device: torch.device) -> None:
    """Raise RecipeError if `device` does not support the precision."""
    if precision == "fp16" and device.type == "cpu":
        raise RecipeError(
            "train.precision: fp16 needs a GPU (on a CPU it is slow and its gradients underflow); "
            "use fp32"
        )
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise RecipeError("train.precision: this GPU does not support bf16; use fp16 or fp32")


def check_optimizer(name: str, device: torch.device) -> None:
    """Raise RecipeError if the optimiser is not installed or does not run on `device`."""
    if name != "adamw8bit":
        return
    if find_spec("bitsandbytes") is None:
        raise RecipeError(
            "train.optimizer: adamw8bit needs bitsandbytes, which is not installed; "
            "run `pip install bitsandbytes`, or use adamw"
        )
    if device.type != "cuda":
        raise RecipeError(
            "train.optimizer: adamw8bit saves GPU memory and needs a GPU; use adamw on a CPU"
        )


def _rule(spec: TrainSpec, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if spec.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        rule: torch.optim.Optimizer = AdamW8bit(groups, weight_decay=spec.weight_decay)
        return rule
    return torch.optim.AdamW(groups, weight_decay=spec.weight_decay, fused=True)
