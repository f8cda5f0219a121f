"""Run the networks of a step: one UNet call, and the VAE decoder.

If a call runs out of memory, it is repeated with fewer images, and later calls remember the number
(`call_size.py`). If it fails for another reason, it is repeated for each image, so that only the
request that causes the error fails. If the device is lost, the step fails and the engine ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from services.engine.assembly import predict
from services.engine.backends.protocol import Backend
from services.engine.bank import Bank
from services.engine.call_size import CallSize
from services.engine.device_errors import is_device_lost, is_out_of_memory, release_memory
from services.engine.in_flight import DenoisingJob, InFlightRequest
from services.engine.result import DeviceLost, OutOfMemory
from services.engine.stats import EngineStats
from services.engine.vae import decode

log = logging.getLogger("engine")

Images = Sequence[DenoisingJob]  # of one latent shape


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
        self._unet_size, self._vae_size = CallSize(), CallSize()

    def denoise(self, images: Images) -> None:
        """Run the UNet for images of one latent shape, and advance each image."""
        self._run(images, self._denoise, self._unet_size)

    def decode(self, images: Sequence[DenoisingJob]) -> None:
        """Decode images into their `pixels`, in batches of one latent shape."""
        rest = list(images)
        while rest:
            group = [image for image in rest if image.shape == rest[0].shape][: self._decode_batch]
            self._run(group, self._decode, self._vae_size)
            rest = [image for image in rest if image not in group]

    def _run(self, images: Images, call: Callable[[Images], None], size: CallSize) -> None:
        """Run `call` for all images, in as few calls as memory allows."""
        rest = list(images)
        while rest:
            count = size.of(rest[0].shape, len(rest))
            group, rest = rest[:count], rest[count:]
            error = _error_of(partial(call, group))
            if error is None:
                size.worked(group[0].shape, count)
            elif is_device_lost(error):
                raise DeviceLost(
                    f"device: {_line(error)}; the engine ends, because the device "
                    "fails every later call; send the request to another replica"
                ) from error
            elif is_out_of_memory(error):
                rest = self._after_out_of_memory(group, size, error) + rest
            elif count == 1:
                self._fail(group[0].flight, error)
            else:
                for image in group:  # no image has advanced yet
                    self._run([image], call, size)

    def _after_out_of_memory(
        self, group: Images, size: CallSize, error: Exception
    ) -> list[DenoisingJob]:
        """Release memory; return the images to try again. A single image fails."""
        release_memory(group[0].latents.device)
        self._stats.out_of_memory += 1
        height, width = group[0].shape
        pixels = f"{8 * width}x{8 * height} pixels"
        log.warning("out of memory for %d images of %s: %s", len(group), pixels, _line(error))
        if len(group) > 1:
            size.ran_out(group[0].shape, len(group))
            return list(group)
        self._fail(
            group[0].flight,
            OutOfMemory(
                f"device: too little free memory for one image of {pixels}; "
                "request a smaller one, or lower ATELIER_SLOTS or ATELIER_MAX_RANK"
            ),
        )
        return []

    def _denoise(self, images: Images) -> None:
        predicted = predict(images, self._backend, self._bank, self._stats)
        for image, rows in zip(images, predicted, strict=True):
            self._advance(image, rows)

    def _advance(self, image: DenoisingJob, rows: Tensor) -> None:
        try:
            image.advance(rows)
        except Exception as error:
            self._fail(image.flight, error)

    def _decode(self, images: Images) -> None:
        started = time.monotonic()
        decoded = decode(self._vae, torch.cat([image.latents for image in images]))
        seconds = time.monotonic() - started
        self._stats.seconds["decode"] += seconds
        for image, pixels in zip(images, decoded, strict=True):
            image.pixels = pixels
            image.flight.seconds["decode"] += seconds / len(images)


def _line(error: Exception) -> str:
    """Return the first line of an error's text; some errors for lack of memory have none."""
    return str(error).partition("\n")[0] or type(error).__name__


def _error_of(call: Callable[[], None]) -> Exception | None:
    """Run `call`; return its error.

    The frames of the traceback keep the tensors of the failed call alive. They are cleared after an
    error for lack of memory, so that the caller can try again with more free memory.
    """
    try:
        call()
    except Exception as error:
        if is_out_of_memory(error):
            error.__context__ = error.__cause__ = None  # they have frames, too
            return error.with_traceback(None)
        return error
    return None
