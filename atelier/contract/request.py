"""A request for images, from the gateway to the engine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from atelier.contract.limits import (
    MAX_ADAPTERS,
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_PROMPT,
    MAX_SIDE,
    MAX_STEPS,
    MAX_WEIGHT,
    MIN_SIDE,
    SCHEDULERS,
    SEEDS,
    SIDE_MULTIPLE,
)
from atelier.errors import BadInput


class RequestError(BadInput):
    """An invalid request; the text names the field."""


@dataclass(frozen=True)
class AdapterUse:
    """One adapter of a request; `version` None is the default at submission."""

    name: str
    version: int | None = None
    weight: float = 1.0


def pinned(uses: Iterable[AdapterUse]) -> frozenset[tuple[str, int]]:
    """Return name and version of each adapter. Raises ValueError if one has no version."""
    pins = set()
    for use in uses:
        if use.version is None:
            raise ValueError(f"{use.name}: has no version")
        pins.add((use.name, use.version))
    return frozenset(pins)


@dataclass(frozen=True)
class ImageRequest:
    """A prompt and its settings. Image `i` equals the image of a single request with seed + i."""

    prompt: str
    negative_prompt: str | None = None
    adapters: tuple[AdapterUse, ...] = ()
    scheduler: str = "euler"
    seed: int = 0
    steps: int = 30
    width: int | None = None  # pixels; None: the default size of the base
    height: int | None = None
    images: int = 1
    guidance_scale: float = 5.0
    deadline: float | None = None  # seconds from submission

    def validate(self, *, max_side: int = MAX_SIDE) -> None:
        """Raise RequestError if a field is outside the limits; `max_side` is in pixels."""
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
                if value % SIDE_MULTIPLE:
                    near = round(value / SIDE_MULTIPLE) * SIDE_MULTIPLE
                    raise RequestError(
                        f"{side}: {value} is not a multiple of {SIDE_MULTIPLE}; try {near}"
                    )
        if self.scheduler not in SCHEDULERS:
            raise RequestError(
                f"scheduler: {self.scheduler!r} is not one of {', '.join(SCHEDULERS)}"
            )
        for use in self.adapters:
            _within(f"weight of adapter {use.name}", use.weight, -MAX_WEIGHT, MAX_WEIGHT)
        if self.deadline is not None and not self.deadline > 0:
            raise RequestError(f"deadline: {self.deadline} is not a positive number of seconds")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise RequestError(f"{name}: {value} is not between {low} and {high}")
