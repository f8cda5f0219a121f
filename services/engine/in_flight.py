"""The state of a request in the engine, and of each of its images."""

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

BankKey = tuple[tuple[int, float], ...]  # (uid, weight) of each adapter in a slot


@dataclass(eq=False)
class DenoisingJob:
    """One image in progress, with its own scheduler, random generator and latents."""

    flight: InFlightRequest
    seed: int
    order: int  # position in the order of arrival
    shape: Shape  # height and width of the latents
    conditions: tuple[Embedding, ...]  # (negative, prompt) with guidance, else (prompt,)
    time_ids: Tensor  # [6], in the dtype of the base
    slot: int
    sampler: Sampler
    latents: Tensor  # [1, 4, height, width], in the dtype of the base
    left_out: int = 0  # consecutive UNet calls without this image
    pixels: NDArray[np.uint8] | None = None  # [height, width, 3], once decoded

    @property
    def rows(self) -> int:
        """UNet rows per call: 2 with guidance, otherwise 1."""
        return len(self.conditions)

    @property
    def denoised(self) -> bool:
        """Whether the last UNet call of the image is done."""
        return self.sampler.done == self.sampler.calls

    def advance(self, predicted: Tensor) -> None:
        """Advance by one UNet call, from the prediction of its rows [rows, 4, height, width].

        Two rows are combined by classifier-free guidance (Ho and Salimans 2022). Raises Diverged if
        the final latents are not finite.
        """
        if self.rows == 2:
            negative, prompt = predicted.chunk(2)
            predicted = negative + self.flight.request.guidance_scale * (prompt - negative)
        self.latents = self.sampler.step(predicted, self.latents)
        if self.denoised and not torch.isfinite(self.latents).all():
            raise Diverged(
                "latents: not finite; lower the weights of the adapters or guidance_scale"
            )


@dataclass(eq=False)
class InFlightRequest:
    """One request, from submission to result. Requests are compared by identity."""

    order: int
    request: ImageRequest
    entries: tuple[StoredAdapter, ...]
    shape: Shape
    future: Future[ImageResult] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    passed_over: int = 0  # number of failed attempts to assign a slot
    slot: int | None = None  # None until admitted
    images: list[DenoisingJob] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def key(self) -> BankKey:
        """The content of the slot that the request needs: (uid, weight) of each adapter.

        It is empty for the base.
        """
        uses = zip(self.entries, self.request.adapters, strict=True)
        return tuple(sorted((entry.uid, use.weight) for entry, use in uses if use.weight))

    @property
    def rank(self) -> int:
        """The total rank of the adapters whose weight is not 0."""
        uses = zip(self.entries, self.request.adapters, strict=True)
        return sum(entry.rank or 0 for entry, use in uses if use.weight)

    @property
    def guided(self) -> bool:
        """Whether each image also has a negative row (guidance_scale above 1, as in diffusers)."""
        return self.request.guidance_scale > 1

    @property
    def overdue(self) -> bool:
        """Whether the deadline of the request has passed."""
        deadline = self.request.deadline
        return deadline is not None and time.monotonic() > self.submitted + deadline

    def result(self, *, backend: str, engine_digest: str) -> ImageResult:
        """Return the result. Every image must be decoded. Timings are in seconds."""
        total = time.monotonic() - self.submitted
        self.seconds["denoise"] = total - sum(self.seconds.values())
        self.seconds["total"] = total
        uses = zip(self.entries, self.request.adapters, strict=True)
        return ImageResult(
            images=np.stack([image.pixels for image in self.images if image.pixels is not None]),
            seeds=self.seeds(),
            adapters=tuple(
                UsedAdapter(
                    name=entry.name, version=entry.version, digest=entry.digest, weight=use.weight
                )
                for entry, use in uses
            ),
            backend=backend,
            engine_digest=engine_digest,
            warnings=self.warnings,
            timings=dict(self.seconds),
        )

    def seeds(self) -> tuple[int, ...]:
        """Return one seed per image: consecutive numbers from the seed of the request."""
        return tuple((self.request.seed + i) % SEEDS for i in range(self.request.images))


def initial_noise(
    seed: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, torch.Generator]:
    """Return standard normal noise on `device`, and the generator that produced it.

    The noise is sampled in `dtype` on the CPU, as in diffusers' `randn_tensor` with a CPU
    generator, so that it is the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype).to(device), generator


def names(flights: Iterable[InFlightRequest]) -> tuple[str, ...]:
    """Return the sorted names of the adapters that the requests use."""
    return tuple(sorted({entry.name for flight in flights for entry in flight.entries}))
