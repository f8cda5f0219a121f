"""The training objective: noised latents, prediction targets and loss weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from atelier.errors import BaseError


@dataclass(frozen=True)
class Objective:
    """The noise schedule and prediction type of a base.

    `alphas`: cumulative products of the alphas, float32 [timesteps], on the training device.
    `prediction` is `epsilon` or `v_prediction`.
    """

    alphas: Tensor
    prediction: str

    @classmethod
    def of(cls, scheduler_config: Mapping[str, Any], device: torch.device) -> "Objective":
        """Read the scheduler configuration of a base (diffusers' `scheduler_config.json`).

        Raises BaseError if the prediction type is not supported.
        """
        scheduler = DDPMScheduler.from_config(scheduler_config)
        prediction = scheduler.config.prediction_type
        if prediction not in ("epsilon", "v_prediction"):
            raise BaseError(
                f"the base predicts {prediction}; use a base that predicts epsilon or v_prediction"
            )
        return cls(scheduler.alphas_cumprod.to(device, torch.float32), prediction)

    @property
    def timesteps(self) -> int:
        """The number of noise levels."""
        return len(self.alphas)

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the latents at the noise levels `timesteps`, int64 [batch].

        Latents, noise and result are [batch, channels, height, width].
        """
        alpha = self._alpha(timesteps)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the prediction target: the noise, or v (Salimans & Ho 2022).

        Shapes are those of `noised`.
        """
        if self.prediction == "epsilon":
            return noise
        alpha = self._alpha(timesteps)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents

    def min_snr(self, timesteps: Tensor, gamma: float) -> Tensor:
        """Return the min-SNR loss weights, float32 [batch].

        Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy".
        """
        alpha = self.alphas[timesteps]
        snr = alpha / (1 - alpha)
        over = snr if self.prediction == "epsilon" else snr + 1
        return snr.clamp(max=gamma) / over

    def _alpha(self, timesteps: Tensor) -> Tensor:
        return self.alphas[timesteps].view(-1, 1, 1, 1)
