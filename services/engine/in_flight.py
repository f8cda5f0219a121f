"""A request on its way through the engine, and the images it asked for."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.contract.info import UsedAdapter
from atelier.contract.limits import SEEDS
from atelier.contract.request import ImageRequest
from services.engine.result import Diverged, ImageResult
from services.engine.schedulers import Sampler
from services.engine.scheduling import Shape
from services.engine.store import StoredAdapter
from services.engine.text import Embedding

BankKey = tuple[tuple[int, float], ...]  # entries' uids and weights: what a slot holds


@dataclass(eq=False)
class DenoisingJob:
    """One picture being drawn. Its scheduler, generator and latents are its own."""

    flight: InFlightRequest
    seed: int
    order: int
    shape: Shape  # of the latents
    conditions: tuple[Embedding, ...]  # (negative, prompt) with guidance, else (prompt,)
    time_ids: Tensor  # [6]
    slot: int
    sampler: Sampler
    latents: Tensor  # [1, 4, height, width]
    left_out: int = 0
    pixels: NDArray[np.uint8] | None = None

    @property
    def rows(self) -> int:
        """UNet rows a call takes."""
        return len(self.conditions)

    @property
    def denoised(self) -> bool:
        """Whether the last call is done."""
        return self.sampler.done == self.sampler.calls

    def advance(self, predicted: Tensor) -> None:
        """One call further, given the prediction for each of its rows [rows, 4, height, width]."""
        if self.rows == 2:
            negative, prompt = predicted.chunk(2)
            predicted = negative + self.flight.request.guidance_scale * (prompt - negative)
        self.latents = self.sampler.step(predicted, self.latents)
        if self.denoised and not torch.isfinite(self.latents).all():
            raise Diverged("latents: not finite; lower the adapters' weights or the guidance")


@dataclass(eq=False)
class InFlightRequest:
    """One request, from submission to its answer. Two flights are never equal."""

    order: int
    request: ImageRequest
    entries: tuple[StoredAdapter, ...]
    shape: Shape
    future: Future[ImageResult] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    passed_over: int = 0  # admissions that went by for want of a slot
    slot: int | None = None  # None until admitted
    images: list[DenoisingJob] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def key(self) -> BankKey:
        """What its slot has to hold; empty for the base alone."""
        uses = zip(self.entries, self.request.adapters, strict=True)
        return tuple(sorted((entry.uid, use.weight) for entry, use in uses if use.weight))

    @property
    def rank(self) -> int:
        """The rank that its slot has to hold."""
        uses = zip(self.entries, self.request.adapters, strict=True)
        return sum(entry.rank or 0 for entry, use in uses if use.weight)

    @property
    def guided(self) -> bool:
        """Whether a negative row goes beside each image's own."""
        return self.request.guidance_scale > 1

    @property
    def overdue(self) -> bool:
        """Whether its deadline has passed."""
        deadline = self.request.deadline
        return deadline is not None and time.monotonic() > self.submitted + deadline

    def result(self, *, backend: str, engine_digest: str) -> ImageResult:
        """The answer, once every image has its pixels; its timings are in seconds."""
        total = time.monotonic() - self.submitted
        self.seconds["denoise"] = total - sum(self.seconds.values())
        self.seconds["total"] = total
        uses = zip(self.entries, self.request.adapters, strict=True)
        return ImageResult(
            images=np.stack([image.pixels for image in self.images if image.pixels is not None]),
            seeds=self.seeds(),
            adapters=tuple(
                UsedAdapter(name=e.name, version=e.version, digest=e.digest, weight=u.weight)
                for e, u in uses
            ),
            backend=backend,
            engine_digest=engine_digest,
            warnings=self.warnings,
            timings=dict(self.seconds),
        )

    def seeds(self) -> tuple[int, ...]:
        """One seed an image."""
        return tuple((self.request.seed + i) % SEEDS for i in range(self.request.images))


def initial_noise(
    seed: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, torch.Generator]:
    """Unit noise on `device`, and the generator after it.

    Drawn in `dtype` on the CPU, as diffusers' `randn_tensor` does for a CPU generator: every device
    starts from the same numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype).to(device), generator


def names(flights: Iterable[InFlightRequest]) -> tuple[str, ...]:
    """The adapters that some requests hold, sorted."""
    return tuple(sorted({entry.name for flight in flights for entry in flight.entries}))
