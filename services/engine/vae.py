"""Decode latents into pixels as StableDiffusionXLPipeline and VaeImageProcessor do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.engine.result import Diverged


def decode(vae: Any, latents: Tensor) -> NDArray[np.uint8]:
    """Decode latents [image, 4, h, w] into uint8 [image, height, width, 3] on the CPU.

    The VAE computes in its own dtype: `load_base` loads a VAE that overflows in fp16 as fp32. As in
    diffusers, `latents_mean` and `latents_std` of its config apply if present. Raises Diverged if
    the pixels are not finite, because such a picture would be black.
    """
    latents = latents.to(vae.dtype)
    mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is not None and std is not None:
        mean, std = (torch.tensor(values).view(1, -1, 1, 1).to(latents) for values in (mean, std))
        latents = latents * std / vae.config.scaling_factor + mean
    else:
        latents = latents / vae.config.scaling_factor
    pixels = vae.decode(latents, return_dict=False)[0]
    if not torch.isfinite(pixels).all():
        raise Diverged(
            f"vae: the pixels are not finite in {str(vae.dtype).removeprefix('torch.')}; use "
            "ATELIER_PRECISION=fp32, or a VAE that is made for this precision"
        )
    unit = (pixels * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
    rounded: NDArray[np.uint8] = (unit * 255).round().astype(np.uint8)
    return rounded
