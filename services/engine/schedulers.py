"""Noise schedulers by name, configured as users of diffusers would: from the base's own config.

Every image has a scheduler object of its own, for PNDM, LMS and the multistep solvers carry state.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Generator, Tensor

CLASSES: Mapping[str, type] = {
    "euler": EulerDiscreteScheduler,
    "euler_a": EulerAncestralDiscreteScheduler,
    "ddim": DDIMScheduler,
    "pndm": PNDMScheduler,
    "lms": LMSDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "heun": HeunDiscreteScheduler,
}
TAKES_GENERATOR = {
    name: "generator" in inspect.signature(cls.step).parameters  # type: ignore[attr-defined]
    for name, cls in CLASSES.items()
}


class Sampler:
    """One image's way from noise to latents, by a scheduler of diffusers."""

    def __init__(
        self, name: str, config: Mapping[str, Any], steps: int, generator: Generator
    ) -> None:
        """`config` is the base's own; KeyError for a name that CLASSES lacks.

        Schedulers that add noise at each step draw it from `generator`.
        """
        self._scheduler: Any = CLASSES[name].from_config(config)  # type: ignore[attr-defined]
        self._scheduler.set_timesteps(steps)
        if hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(0)
        self._extra = {"generator": generator} if TAKES_GENERATOR[name] else {}
        self.timesteps: Tensor = self._scheduler.timesteps
        self.done = 0

    @property
    def init_noise_sigma(self) -> float:
        """The standard deviation that the first latents need."""
        return float(self._scheduler.init_noise_sigma)

    @property
    def calls(self) -> int:
        """UNet calls in all; second-order schedulers make more than one a step."""
        return len(self.timesteps)

    @property
    def timestep(self) -> Tensor:
        """The scalar timestep of the next call."""
        return self.timesteps[self.done]

    def scaled(self, latents: Tensor) -> Tensor:
        """Latents [1, 4, height, width] as the next call wants them, in the same shape."""
        scaled: Tensor = self._scheduler.scale_model_input(latents, self.timestep)
        return scaled

    def step(self, predicted: Tensor, latents: Tensor) -> Tensor:
        """The latents after the call that predicted noise (or v); all [1, 4, height, width].

        The result has the dtype of `latents`.
        """
        stepped: Tensor = self._scheduler.step(
            predicted, self.timestep, latents, **self._extra, return_dict=False
        )[0]
        self.done += 1
        return stepped.to(latents.dtype)
