"""The engine's answer to a request, and the errors with which it refuses one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from atelier.contract.info import UsedAdapter
from atelier.errors import AtelierError, BadInput, Unavailable


class UnknownAdapter(BadInput):
    """A request for an adapter or a version that this engine does not hold."""


class QueueFull(Unavailable):
    """More requests wait than the settings allow; `retry_after` is in seconds."""


class DeadlineExceeded(Unavailable):
    """The request's own deadline passed before its last step."""


class Cancelled(AtelierError):  # noqa: N818
    """The engine was closed before the request was done."""


class Diverged(AtelierError):  # noqa: N818
    """The latents left the range of the numbers they are kept in; there is no picture."""


@dataclass(frozen=True)
class ImageResult:
    """The pictures of one request, and all that is needed to make them again."""

    images: NDArray[np.uint8]  # [image, height, width, 3]
    seeds: tuple[int, ...]
    adapters: tuple[UsedAdapter, ...]
    backend: str
    engine_digest: str
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)  # seconds
