"""The result of a request, and the errors of the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from atelier.contract.info import UsedAdapter
from atelier.errors import AtelierError, BadInput, Unavailable


class UnknownAdapter(BadInput):
    """The request names an adapter or version that this engine does not have."""


class QueueFull(Unavailable):
    """The queue is full (`ATELIER_QUEUE`); `retry_after` is in seconds."""


class DeadlineExceeded(Unavailable):
    """The deadline of the request passed before its last step."""


class Cancelled(AtelierError):  # noqa: N818
    """The request was cancelled, or the engine was closed before the request ended."""


class Diverged(AtelierError):  # noqa: N818
    """The latents are not finite, usually because they overflowed their dtype."""


class OutOfMemory(Unavailable):
    """The device has too little free memory for a single image."""


class DeviceLost(Unavailable):
    """The device cannot compute any more; the process must start again."""


@dataclass(frozen=True)
class ImageResult:
    """The images of one request, and the data to regenerate them."""

    images: NDArray[np.uint8]  # [image, height, width, 3]
    seeds: tuple[int, ...]  # one per image
    adapters: tuple[UsedAdapter, ...]
    backend: str
    engine_digest: str
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)  # seconds by phase
