"""Assemble the rows of a UNet call from images, and split the prediction by image."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from services.engine.backends.protocol import Backend
from services.engine.bank import Bank
from services.engine.in_flight import DenoisingJob
from services.engine.scheduling import padded
from services.engine.stats import EngineStats


def predict(
    images: Sequence[DenoisingJob], backend: Backend, bank: Bank, stats: EngineStats
) -> tuple[Tensor, ...]:
    """Run one UNet call for images of one latent shape.

    Return the prediction of each image, [rows, 4, height, width] in the dtype of the latents. Each
    row gets the timestep and the slot of its image. The batch is padded to a batch size that the
    backend supports.
    """
    started = time.monotonic()
    counts = [image.rows for image in images]
    rows = sum(counts)
    # copies of the first row, whose predictions are discarded
    spare = padded(rows, backend.ladder) - rows
    owners = [image for image in images for _ in range(image.rows)]
    owners += owners[:1] * spare
    conditions = [condition for image in images for condition in image.conditions]
    conditions += conditions[:1] * spare
    scaled = {image: image.sampler.scaled(image.latents) for image in images}
    latents = torch.cat([scaled[owner] for owner in owners])
    timesteps = torch.stack([owner.sampler.timestep for owner in owners])
    predicted = backend.denoise(
        latents,
        timesteps.to(latents.device, torch.float32),
        torch.stack([condition.text for condition in conditions]),
        torch.stack([condition.pooled for condition in conditions]),
        torch.stack([owner.time_ids for owner in owners]),
        [owner.slot for owner in owners],
        bank,
    )
    stats.called(rows, time.monotonic() - started)
    return predicted[:rows].split(counts)
