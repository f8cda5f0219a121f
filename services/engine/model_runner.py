"""Run the networks of a step: one UNet call, and the VAE decoder.

If a call fails for several images, it is repeated for each image, so that only the request that
causes the error fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from services.engine.assembly import predict
from services.engine.backends.protocol import Backend
from services.engine.bank import Bank
from services.engine.in_flight import DenoisingJob, InFlightRequest
from services.engine.stats import EngineStats
from services.engine.vae import decode


class ModelRunner:
    """Run a backend and a VAE on the images of many requests."""

    def __init__(
        self,
        backend: Backend,
        vae: Any,
        bank: Bank,
        *,
        decode_batch: int,  # maximum number of images in one call of the VAE
        stats: EngineStats,
        fail: Callable[[InFlightRequest, Exception], None],  # ends the request of an image
    ) -> None:
        self._backend, self._vae, self._bank = backend, vae, bank
        self._decode_batch, self._stats, self._fail = decode_batch, stats, fail

    def denoise(self, images: Sequence[DenoisingJob]) -> None:
        """Run one UNet call for images of one latent shape, and advance each image."""
        if not images:
            return
        try:
            predicted = predict(images, self._backend, self._bank, self._stats)
        except Exception as error:
            if len(images) == 1:
                self._fail(images[0].flight, error)
                return
            for image in images:  # no image has advanced yet
                self.denoise([image])
            return
        for image, rows in zip(images, predicted, strict=True):
            try:
                image.advance(rows)
            except Exception as error:
                self._fail(image.flight, error)

    def decode(self, images: Sequence[DenoisingJob]) -> None:
        """Decode images into their `pixels`, in batches of one latent shape."""
        rest = list(images)
        while rest:
            group = [image for image in rest if image.shape == rest[0].shape][: self._decode_batch]
            self._decode(group)
            rest = [image for image in rest if image not in group]

    def _decode(self, images: Sequence[DenoisingJob]) -> None:
        """Run one VAE call for images of one latent shape."""
        started = time.monotonic()
        try:
            decoded = decode(self._vae, torch.cat([image.latents for image in images]))
        except Exception as error:
            if len(images) == 1:
                self._fail(images[0].flight, error)
                return
            for image in images:
                self._decode([image])
            return
        seconds = time.monotonic() - started
        self._stats.seconds["decode"] += seconds
        for image, pixels in zip(images, decoded, strict=True):
            image.pixels = pixels
            image.flight.seconds["decode"] += seconds / len(images)
