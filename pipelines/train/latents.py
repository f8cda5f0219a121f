"""Encode pictures once, as the mean and deviation of the VAE's posterior.

Every step samples from the posterior again, like a trainer that encodes each time, but without
running the VAE.
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
    """The posterior of one picture, in the scale of the UNet's input.

    `mean`, `deviation`: float32 [channels, height, width]; `time_ids`: float32 [6], SDXL's size
    conditioning.
    """

    mean: Tensor
    deviation: Tensor
    time_ids: Tensor


def encode(vae: Any, pictures: Sequence[Fitted], names: Sequence[str]) -> list[Latent]:
    """Return the posteriors of `pictures` in float32, on the VAE's device.

    Raises Refused, with the name of the picture from `names`, if a latent is not finite.
    """
    vae = vae if vae.dtype == torch.float32 else _in_float32(vae)
    shift, scale = _normalisation(vae)
    encoded = []
    for picture, name in zip(pictures, names, strict=True):
        pixels = torch.from_numpy(picture.pixels.copy()).to(vae.device)
        inputs = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1.0
        with torch.no_grad():
            posterior = vae.encode(inputs).latent_dist
        mean, deviation = (posterior.mean - shift) * scale, posterior.std * scale
        if not (torch.isfinite(mean).all() and torch.isfinite(deviation).all()):
            raise Refused(
                f"{name}: the VAE encodes it to values that are not finite, so the weights of the "
                "VAE are damaged or overflow; set base.vae (madebyollin/sdxl-vae-fp16-fix for SDXL)"
            )
        ids = torch.tensor(picture.time_ids, dtype=torch.float32, device=vae.device)
        encoded.append(Latent(mean[0], deviation[0], ids))
    return encoded


def _in_float32(vae: Any) -> Any:
    """Return a float32 copy of the VAE, because SDXL's own VAE overflows in fp16."""
    from copy import deepcopy

    return deepcopy(vae).float()


def _normalisation(vae: Any) -> tuple[Tensor | float, Tensor | float]:
    """Return (shift, scale): the UNet's input is `(latent - shift) * scale`."""
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return 0.0, float(config.scaling_factor)
    shift = torch.tensor(mean, device=vae.device).view(1, -1, 1, 1)
    return shift, config.scaling_factor / torch.tensor(std, device=vae.device).view(1, -1, 1, 1)
