"""Pictures as the VAE sees them, encoded once; the posterior stays a distribution.

Mean and deviation are kept, not a sample, so every step draws a fresh one, as a trainer that
encodes each time would, without the VAE's work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atelier.errors import Refused
from pipelines.dataset import Fitted


@dataclass(frozen=True)
class Latent:
    """One picture's posterior, scaled as the UNet wants it; [channels, height, width] each.

    `time_ids`: float32 [6], SDXL's size conditioning.
    """

    mean: Tensor
    deviation: Tensor
    time_ids: Tensor


def encode(vae: Any, pictures: Sequence[Fitted], names: Sequence[str]) -> list[Latent]:
    """Posteriors on the VAE's device, in float32; Refused where the VAE answers no number."""
    wide = vae if vae.dtype == torch.float32 else _in_float32(vae)
    shift, scale = _normalisation(wide)
    encoded = []
    for picture, name in zip(pictures, names, strict=True):
        pixels = torch.from_numpy(picture.pixels.copy()).to(wide.device)
        inputs = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1.0
        with torch.no_grad():
            posterior = wide.encode(inputs).latent_dist
        mean, deviation = (posterior.mean - shift) * scale, posterior.std * scale
        if not (torch.isfinite(mean).all() and torch.isfinite(deviation).all()):
            raise Refused(
                f"{name}: the VAE answers numbers that are not finite; its weights are damaged or "
                "overflow: set base.vae (madebyollin/sdxl-vae-fp16-fix for SDXL)"
            )
        ids = torch.tensor(picture.time_ids, dtype=torch.float32, device=wide.device)
        encoded.append(Latent(mean[0], deviation[0], ids))
    return encoded


def _in_float32(vae: Any) -> Any:
    """A copy: SDXL's own VAE overflows in fp16, and the base's must stay as it is."""
    from copy import deepcopy

    return deepcopy(vae).float()


def _normalisation(vae: Any) -> tuple[Tensor | float, Tensor | float]:
    """What to subtract from a latent, and what then to multiply it by."""
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return 0.0, float(config.scaling_factor)
    shift = torch.tensor(mean, device=vae.device).view(1, -1, 1, 1)
    return shift, config.scaling_factor / torch.tensor(std, device=vae.device).view(1, -1, 1, 1)
