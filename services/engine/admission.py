"""Admit waiting requests: assign a slot, write weights to the bank, encode the prompts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import torch

from atelier.contract.request import ImageRequest, RequestError
from services.engine.bank import Bank
from services.engine.base import Base
from services.engine.in_flight import BankKey, DenoisingJob, InFlightRequest, initial_noise
from services.engine.layout import Layout
from services.engine.request_queue import RequestQueue
from services.engine.schedulers import Sampler
from services.engine.scheduling import Shape
from services.engine.settings import EngineSettings
from services.engine.slots import Slots
from services.engine.stats import EngineStats
from services.engine.store import AdapterStore
from services.engine.text import Embedding, TextEncoders


class Admission:
    """Turn waiting requests into denoising jobs. No other class writes the bank or its slots."""

    def __init__(
        self,
        base: Base,
        layout: Layout,
        settings: EngineSettings,
        *,
        sizes: Sequence[Shape],  # latent sizes that the backend can run; empty if any size
        store: AdapterStore,
        bank: Bank,
        text: TextEncoders,
        stats: EngineStats,
    ) -> None:
        """Create the slot table of `bank`. `text` encodes prompts with the weights of a slot."""
        self._base, self._settings, self._sizes = base, settings, sizes
        self._store, self._bank, self._text, self._stats = store, bank, text, stats
        self._text_mask = layout.text_mask
        self._slots: Slots[BankKey] = Slots(settings.slots)
        self._orders = itertools.count()

    def accept(self, request: ImageRequest) -> InFlightRequest:
        """Validate a request and acquire its adapters until `leave`. Thread-safe.

        Raises RequestError if this engine cannot generate the request with its settings, and
        UnknownAdapter for an adapter or version that is not in the store.
        """
        limits = self._settings
        request.validate(max_side=limits.max_side)
        if request.images > limits.inflight:
            raise RequestError(
                f"images: {request.images} exceeds the limit of this engine, {limits.inflight}; "
                "request fewer images"
            )
        names = [use.name for use in request.adapters]
        if len(set(names)) < len(names):
            raise RequestError("adapters: an adapter occurs twice; list it once, with its weight")
        flight = InFlightRequest(
            order=next(self._orders), request=request, entries=(), shape=self._shape(request)
        )
        try:
            for use in request.adapters:
                flight.entries += (self._store.acquire(use),)
            if flight.rank > limits.max_rank:
                raise RequestError(
                    f"adapters: the total rank {flight.rank} exceeds the max_rank of this engine, "
                    f"{limits.max_rank}; use fewer adapters, or adapters of a lower rank"
                )
        except Exception:
            self.leave(flight)
            raise
        return flight

    def admit(self, requests: RequestQueue) -> None:
        """Start waiting requests, oldest first, within the limits of images and slots."""
        room = self._settings.inflight - requests.images
        may_take_slot = True
        for flight in requests.waiting:
            if flight.request.images > room:
                return
            try:
                if self._claim(flight, may_take_slot=may_take_slot):
                    self._prepare(flight)
                    requests.run(flight)
                    room -= len(flight.images)
            except Exception as error:
                requests.fail(flight, error)
            may_take_slot = may_take_slot and not self._starved(flight)

    def leave(self, flight: InFlightRequest) -> None:
        """Release the slot and adapters of a request; idle weights stay in the bank."""
        if flight.slot:
            self._slots.release(flight.key)
        for entry in flight.entries:
            self._store.release(entry)

    @property
    def slots_in_use(self) -> int:
        """The number of slots in use by running requests."""
        return self._slots.in_use

    def _claim(self, flight: InFlightRequest, *, may_take_slot: bool) -> bool:
        """Assign a slot to a request and write its weights to the slot.

        Return False if the request must wait. Without `may_take_slot`, only a request for the base
        (slot 0) succeeds. If an adapter could not be loaded, its error is raised.
        """
        if not all(self._store.ready(entry) for entry in flight.entries):
            return False
        if not flight.key:
            flight.slot = 0
            return True
        grant = self._slots.acquire(flight.key) if may_take_slot else None
        if grant is None:
            flight.passed_over += 1
            return False
        flight.slot = grant.slot
        if grant.fresh:
            self._write(flight, grant.slot)
        return True

    def _starved(self, flight: InFlightRequest) -> bool:
        """Whether newer requests must wait until this request has a slot."""
        return flight.passed_over > self._settings.patience

    def _prepare(self, flight: InFlightRequest) -> None:
        """Encode the prompts and create the denoising job of every image."""
        started = time.monotonic()
        flight.seconds["queued"] = started - flight.submitted
        conditions = self._encode(flight)
        flight.seconds["encode"] = time.monotonic() - started
        flight.images = [
            self._image(flight, i, seed, conditions) for i, seed in enumerate(flight.seeds())
        ]

    def _shape(self, request: ImageRequest) -> Shape:
        """Return latent height and width. Raises RequestError if the backend lacks this size."""
        scale = self._base.reduction
        height, width = request.height or self._base.size, request.width or self._base.size
        shape, sizes = (height // scale, width // scale), self._sizes
        if sizes and shape not in sizes:
            raise RequestError(
                f"width, height: this engine was not compiled for {width}×{height}; "
                f"use {' or '.join(f'{w * scale}×{h * scale}' for h, w in sizes)}"
            )
        return shape

    def _write(self, flight: InFlightRequest, slot: int) -> None:
        started = time.monotonic()
        weights = {entry.uid: entry.weights for entry in flight.entries if entry.weights}
        try:
            self._bank.write(slot, [(weights[uid], weight) for uid, weight in flight.key])
        except Exception:
            self._slots.release(flight.key)
            self._slots.forget(flight.key)  # incompletely written, so it must not be reused
            flight.slot = None
            raise
        self._stats.swapped(time.monotonic() - started)

    def _encode(self, flight: InFlightRequest) -> tuple[Embedding, ...]:
        """Encode the prompts of one image: (negative, prompt) with guidance, else (prompt,).

        The cache key contains only the weights that act on the text encoders. Requests with an
        adapter that acts only on the UNet therefore share the embeddings of the base.
        """
        request, zeros = flight.request, self._base.force_zeros_for_empty_prompt
        absent = request.negative_prompt is None and zeros
        negatives = [request.negative_prompt or ""] if flight.guided and not absent else []
        prompts = [*negatives, request.prompt]
        fields = zip(("negative_prompt",) * len(negatives) + ("prompt",), prompts, strict=True)
        flight.warnings = tuple(
            warning for name, text in fields for warning in self._text.warnings(text, name)
        )

        acting = {entry.uid for entry in flight.entries if entry.mask & self._text_mask}
        weights = tuple((uid, weight) for uid, weight in flight.key if uid in acting)
        slot = flight.slot if weights and flight.slot else 0
        conditions = self._text.embed(prompts, weights, slot, self._bank.view((slot,)))
        if flight.guided and absent:
            conditions = [conditions[-1].zeros(), *conditions]
        return tuple(conditions)

    def _image(
        self, flight: InFlightRequest, index: int, seed: int, conditions: tuple[Embedding, ...]
    ) -> DenoisingJob:
        base, request = self._base, flight.request
        channels = base.unet.config.in_channels
        noise, generator = initial_noise(
            seed, (1, channels, *flight.shape), base.dtype, base.device
        )
        config = base.scheduler_config
        sampler = Sampler(request.scheduler, config, request.steps, generator)
        height, width = (side * base.reduction for side in flight.shape)
        # Original size, crop corner, target size; see StableDiffusionXLPipeline._get_add_time_ids.
        size = (height, width, 0, 0, height, width)
        return DenoisingJob(
            flight=flight,
            seed=seed,
            order=flight.order * 100 + index,
            shape=flight.shape,
            conditions=conditions,
            time_ids=torch.tensor(size, dtype=base.dtype, device=base.device),
            slot=flight.slot or 0,
            sampler=sampler,
            latents=noise * sampler.init_noise_sigma,
        )
