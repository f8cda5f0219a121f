"""Latents to pixels, in batches, as diffusers' VaeImageProcessor makes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def decode(vae: Any, latents: Tensor) -> NDArray[np.uint8]:
    """uint8 [image, height, width, 3] of latents [image, 4, h, w].

    The VAE's own precision decides: load_base keeps one that overflows in fp16 at fp32.
    """
    latents = latents.to(vae.dtype)
    mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is not None and std is not None:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1).to(latents) for v in (mean, std))
        latents = latents * std / vae.config.scaling_factor + mean
    else:
        latents = latents / vae.config.scaling_factor
    pixels = vae.decode(latents, return_dict=False)[0]
    unit = (pixels * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
    rounded: NDArray[np.uint8] = (unit * 255).round().astype(np.uint8)
    return rounded
