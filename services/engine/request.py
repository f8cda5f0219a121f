"""What the engine is asked, what it answers, and how it says no."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from atelier.errors import AtelierError, BadInput, Unavailable

SCHEDULERS = ("euler", "euler_a", "ddim", "pndm", "lms", "dpm++", "unipc", "heun")
PIXELS_PER_STEP = 8  # sides are multiples of the VAE's reduction
MIN_SIDE = 32
MAX_STEPS = 150
MAX_IMAGES = 8
MAX_GUIDANCE = 50.0
MAX_WEIGHT = 10.0
MAX_ADAPTERS = 8
MAX_PROMPT = 10_000  # characters; the text encoders read 77 tokens, and the answer warns beyond
SEEDS = 2**64


class RequestError(BadInput):
    """A request that can never be answered; the text names the field."""


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
class AdapterUse:
    """One adapter of a request; without a version, the default at the moment of submission."""

    name: str
    version: int | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class ImageRequest:
    """One prompt and how to draw it. Image `i` is what a single request with seed + i gives."""

    prompt: str
    negative_prompt: str | None = None
    adapters: tuple[AdapterUse, ...] = ()
    scheduler: str = "euler"
    seed: int = 0
    steps: int = 30
    width: int | None = None  # pixels; None is the base's own size
    height: int | None = None
    images: int = 1
    guidance_scale: float = 5.0
    deadline: float | None = None  # seconds from submission

    def validate(self, *, max_side: int = 2048) -> None:
        """Raises RequestError for what no base could draw."""
        _within("steps", self.steps, 1, MAX_STEPS)
        _within("seed", self.seed, 0, SEEDS - 1)
        _within("images", self.images, 1, MAX_IMAGES)
        _within("guidance_scale", self.guidance_scale, 0.0, MAX_GUIDANCE)
        _within("prompt length", len(self.prompt), 0, MAX_PROMPT)
        _within("negative_prompt length", len(self.negative_prompt or ""), 0, MAX_PROMPT)
        _within("adapters", len(self.adapters), 0, MAX_ADAPTERS)
        for side, value in (("width", self.width), ("height", self.height)):
            if value is not None:
                _within(side, value, MIN_SIDE, max_side)
                if value % PIXELS_PER_STEP:
                    near = round(value / PIXELS_PER_STEP) * PIXELS_PER_STEP
                    raise RequestError(
                        f"{side}: {value} is not a multiple of {PIXELS_PER_STEP}; try {near}"
                    )
        if self.scheduler not in SCHEDULERS:
            raise RequestError(
                f"scheduler: {self.scheduler!r} is not one of {', '.join(SCHEDULERS)}"
            )
        for use in self.adapters:
            _within(f"weight of adapter {use.name}", use.weight, -MAX_WEIGHT, MAX_WEIGHT)
        if self.deadline is not None and not self.deadline > 0:
            raise RequestError(f"deadline: {self.deadline} is not a number of seconds above 0")


@dataclass(frozen=True)
class AdapterUsed:
    """Which weights a picture was made with."""

    name: str
    version: int | None
    digest: str
    weight: float


@dataclass(frozen=True)
class ImageResult:
    """The pictures of one request, and all that is needed to make them again."""

    images: NDArray[np.uint8]  # [image, height, width, 3]
    seeds: tuple[int, ...]
    adapters: tuple[AdapterUsed, ...]
    backend: str
    engine_digest: str
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)  # seconds


def _within(name: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise RequestError(f"{name}: {value} is not within {low} and {high}")
