"""What the network is asked to predict from a noised latent, and how much each error counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from atelier.errors import BaseError


@dataclass(frozen=True)
class Objective:
    """A base's noise schedule and prediction type.

    `alphas`: cumulative products, float32 [timesteps], on the training device.
    """

    alphas: Tensor
    prediction: str

    @classmethod
    def of(cls, scheduler_config: Mapping[str, Any], device: torch.device) -> "Objective":
        """As the base's own scheduler configuration has it."""
        scheduler = DDPMScheduler.from_config(scheduler_config)
        prediction = scheduler.config.prediction_type
        if prediction not in ("epsilon", "v_prediction"):
            raise BaseError(
                f"the base predicts {prediction}; epsilon and v_prediction can be trained"
            )
        return cls(scheduler.alphas_cumprod.to(device, torch.float32), prediction)

    @property
    def timesteps(self) -> int:
        """How many noise levels there are."""
        return len(self.alphas)

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The latents at those noise levels; all [batch, channels, height, width]."""
        alpha = self._alpha(timesteps)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What a perfect network would answer."""
        if self.prediction == "epsilon":
            return noise
        alpha = self._alpha(timesteps)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents

    def min_snr(self, timesteps: Tensor, gamma: float) -> Tensor:
        """Loss weights [batch] of Hang et al. 2023 ("Efficient Diffusion Training via Min-SNR")."""
        alpha = self.alphas[timesteps]
        snr = alpha / (1 - alpha)
        over = snr if self.prediction == "epsilon" else snr + 1
        return snr.clamp(max=gamma) / over

    def _alpha(self, timesteps: Tensor) -> Tensor:
        return self.alphas[timesteps].view(-1, 1, 1, 1)
