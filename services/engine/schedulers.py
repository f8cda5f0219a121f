"""Noise schedulers of diffusers by name, configured with `from_config` of the base's config.

Every image has its own scheduler object, because PNDM, LMS and the multistep solvers keep state.
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
    """Denoise one image from noise to final latents with a diffusers scheduler."""

    def __init__(
        self, name: str, config: Mapping[str, Any], steps: int, generator: Generator
    ) -> None:
        """Create the scheduler from the base's `config`, with timesteps for `steps` steps.

        Schedulers that add noise at each step sample it from `generator`. Raises KeyError if `name`
        is not in CLASSES.
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
        """The standard deviation of the initial latents (`init_noise_sigma` of diffusers)."""
        return float(self._scheduler.init_noise_sigma)

    @property
    def calls(self) -> int:
        """The total number of UNet calls. Second-order schedulers need several for some steps."""
        return len(self.timesteps)

    @property
    def timestep(self) -> Tensor:
        """The timestep of the next call, a scalar tensor."""
        return self.timesteps[self.done]

    def scaled(self, latents: Tensor) -> Tensor:
        """Apply the scheduler's `scale_model_input` to latents [1, 4, height, width]."""
        scaled: Tensor = self._scheduler.scale_model_input(latents, self.timestep)
        return scaled

    def step(self, predicted: Tensor, latents: Tensor) -> Tensor:
        """Return the latents after a call, from its predicted noise (or v).

        All are [1, 4, height, width]; the result has the dtype of `latents`. Follows `step` of the
        diffusers scheduler.
        """
        stepped: Tensor = self._scheduler.step(
            predicted, self.timestep, latents, **self._extra, return_dict=False
        )[0]
        self.done += 1
        return stepped.to(latents.dtype)
