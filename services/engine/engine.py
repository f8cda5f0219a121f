"""The diffusion engine: many requests, many adapters, one UNet call after another."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import diffusers
import torch

from atelier.errors import Unavailable
from atelier.files import digest_json
from services.engine.admission import Admission
from services.engine.assembly import predict
from services.engine.backends import make_backend
from services.engine.bank import Bank
from services.engine.base import Base, load_base
from services.engine.in_flight import DenoisingJob, InFlightRequest, names
from services.engine.layout import layout_of
from services.engine.request import (
    Cancelled,
    DeadlineExceeded,
    ImageRequest,
    ImageResult,
    QueueFull,
    RequestError,
)
from services.engine.scheduling import Batch, Shape, choose
from services.engine.settings import EngineSettings
from services.engine.stats import EngineStats, metrics
from services.engine.store import AdapterStore
from services.engine.text import TextEncoders
from services.engine.vae import decode

log = logging.getLogger(__name__)

IDLE = 0.05  # seconds between looks at loads and deadlines while nothing can run


class Engine:
    """Draws images on one device. Any thread may submit; one at a time takes a step."""

    def __init__(self, base: Base, settings: EngineSettings | None = None) -> None:
        """Shares the base's parameters and leaves them as they are."""
        self.base = base
        self.settings = settings = settings or EngineSettings()
        layout = layout_of(base)
        self._stats = EngineStats(slots=settings.slots)
        self._awake = threading.Event()
        self.adapters = AdapterStore(
            layout,
            base_digest=base.digest,
            max_rank=settings.max_rank,
            dtype=base.dtype,
            memory=settings.host_memory,
            pin=base.device.type == "cuda",
            on_ready=self._awake.set,
        )
        self._bank = Bank(
            layout,
            slots=settings.slots,
            max_rank=settings.max_rank,
            dtype=base.dtype,
            device=base.device,
        )
        self._admission = Admission(
            base,
            layout,
            store=self.adapters,
            bank=self._bank,
            text=TextEncoders(base, layout, remembered=settings.embeddings),
            slots=settings.slots,
            patience=settings.patience,
            stats=self._stats,
        )
        self._backend = make_backend(settings, base, layout)
        self._max_rows = min([settings.max_batch, *self._backend.ladder[-1:]])
        self.digest = digest_json(self.describe())
        self._waiting: list[InFlightRequest] = []  # in order of arrival
        self._running: list[InFlightRequest] = []
        self._lock = threading.Lock()  # of _waiting and _closing
        self._device = threading.Lock()  # whoever holds it takes the step
        self._orders = itertools.count()
        self._closing = False
        self._thread: threading.Thread | None = None

    @classmethod
    def load(
        cls, base: str | Path, *, settings: EngineSettings | None = None, vae: str | None = None
    ) -> Engine:
        """An engine on a base from a folder or a hub id."""
        settings = settings or EngineSettings()
        device, dtype = settings.torch_device(), settings.torch_dtype()
        compiled = settings.backend != "torch"
        loaded = load_base(base, vae=vae, device=device, dtype=dtype, unet_weights=not compiled)
        return cls(loaded, settings)

    def describe(self) -> dict[str, str | None]:
        """What decides about the pixels beside the request; `digest` is over this."""
        return {
            "base": self.base.digest,
            "vae": self.base.vae_digest,
            "backend": self._backend.name,
            "precision": str(self.base.dtype).removeprefix("torch."),
            "device": self.base.device.type,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            **self._backend.describe(),
        }

    @property
    def backend(self) -> str:
        """The name of what computes the UNet."""
        return self._backend.name

    # Asking

    def submit(self, request: ImageRequest) -> Future[ImageResult]:
        """Queues a request; cancel the future to withdraw it between steps.

        Raises RequestError, UnknownAdapter, QueueFull or Unavailable at once.
        """
        flight = self._accept(request)
        try:
            with self._lock:
                if self._closing:
                    raise Unavailable("engine: is shutting down; ask another replica")
                if len(self._waiting) >= self.settings.queue:
                    raise QueueFull(
                        f"engine: {len(self._waiting)} requests wait already; try again later",
                        retry_after=max(1.0, len(self._waiting) * self._stats.seconds_per_image()),
                    )
                self._waiting.append(flight)
        except Unavailable:
            self._stats.requests["refused"] += 1
            self._admission.leave(flight)
            raise
        self._awake.set()
        return flight.future

    def generate(self, request: ImageRequest) -> ImageResult:
        """The answer to one request; takes the steps itself where no thread does."""
        return self.generate_many([request])[0]

    def generate_many(self, requests: Sequence[ImageRequest]) -> list[ImageResult]:
        """The answers to many requests, in their order, drawn together.

        The first failure withdraws the rest and is raised.
        """
        futures: list[Future[ImageResult]] = []
        try:
            for request in requests:
                futures.append(self._submit_when_possible(request))
            for future in futures:
                while not future.done():
                    self._turn(future)
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    # Working

    def step(self) -> bool:
        """One turn: admit, schedule, denoise, retire. False when there was nothing to do."""
        with self._device, torch.inference_mode():
            self._withdraw()
            self._admit()
            batch = self._schedule()
            self._denoise(batch)
            self._retire()
            return bool(batch.images)

    def start(self) -> None:
        """Takes steps in a thread of its own until `close`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
            self._thread.start()

    def close(self, *, drain: bool = True) -> None:
        """Takes no more requests; finishes those it has, or ends them with Cancelled."""
        with self._lock:
            self._closing = True
        if not drain:
            with self._device:
                for flight in [*self._waiting, *self._running]:
                    self._fail(flight, Cancelled("engine: closed before the request was done"))
        self._awake.set()
        if self._thread is not None:
            self._thread.join()
        while self._waiting or self._running:
            self._turn()
        self.adapters.close()

    def alive(self) -> bool:
        """Whether requests are (or, before `start`, can be) worked on."""
        return self._thread.is_alive() if self._thread is not None else not self._closing

    def stats(self) -> EngineStats:
        """Counters and gauges as of now."""
        stats, running, waiting = self._stats, list(self._running), list(self._waiting)
        stats.queued = len(waiting)
        stats.running = sum(len(flight.images) for flight in running)
        stats.slots_in_use = self._admission.slots_in_use
        stats.bank_bytes, stats.host_bytes = self._bank.nbytes, self.adapters.nbytes
        stats.running_adapters = names(running)
        stats.waiting_adapters = names(waiting)
        return stats

    def metrics(self) -> str:
        """Prometheus' text format."""
        return metrics(self.stats())

    # The four parts of a step

    def _withdraw(self) -> None:
        for flight in [*self._waiting, *self._running]:
            if flight.future.cancelled():
                self._fail(flight, Cancelled("engine: withdrawn"))
            elif flight.overdue:
                calls = [f"{i.sampler.done} of {i.sampler.calls}" for i in flight.images[:1]]
                self._fail(
                    flight,
                    DeadlineExceeded(
                        f"deadline: {flight.request.deadline} s passed after "
                        f"{calls[0] if calls else 'none'} of the UNet's calls; ask for fewer steps "
                        "or wait longer"
                    ),
                )

    def _admit(self) -> None:
        room = self.settings.inflight - sum(len(flight.images) for flight in self._running)
        may_take = True
        for flight in list(self._waiting):
            if flight.request.images > room:
                return
            try:
                if self._admission.claim(flight, may_take=may_take):
                    self._admission.prepare(flight)
                    self._move(flight)
                    room -= len(flight.images)
            except Exception as error:
                self._fail(flight, error)
            may_take = may_take and not self._admission.starved(flight)

    def _schedule(self) -> Batch[DenoisingJob]:
        images = [i for flight in self._running for i in flight.images if not i.denoised]
        batch = choose(images, max_rows=self._max_rows, patience=self.settings.patience)
        for image in images:
            image.left_out += 1
        for image in batch.images:
            image.left_out = 0
        return batch

    def _denoise(self, batch: Batch[DenoisingJob]) -> None:
        if not batch.images:
            return
        try:
            predicted = predict(batch.images, self._backend, self._bank, self._stats)
        except Exception as error:
            if len(batch.images) == 1:
                self._fail(batch.images[0].flight, error)
                return
            for image in batch.images:  # nothing has moved yet: each again, by itself
                self._denoise(Batch((image,)))
            return
        for image, rows in zip(batch.images, predicted, strict=True):
            try:
                image.advance(rows)
            except Exception as error:
                self._fail(image.flight, error)

    def _retire(self) -> None:
        done = [i for flight in self._running for i in flight.images if i.denoised]
        ready = [image for image in done if image.pixels is None]
        while ready:
            group = [image for image in ready if image.shape == ready[0].shape]
            group = group[: self.settings.decode_batch]
            self._decode(group)
            ready = [image for image in ready if image not in group]
        for flight in list(self._running):
            if all(image.pixels is not None for image in flight.images):
                self._answer(flight)

    # Their parts

    def _accept(self, request: ImageRequest) -> InFlightRequest:
        """A flight that holds its adapters; raises what makes the request impossible."""
        request.validate(max_side=self.settings.max_side)
        if request.images > self.settings.inflight:
            raise RequestError(
                f"images: {request.images} is over this engine's {self.settings.inflight}"
            )
        names = [use.name for use in request.adapters]
        if len(set(names)) < len(names):
            raise RequestError("adapters: one is named twice; give it once, with its weight")
        flight = InFlightRequest(
            order=next(self._orders), request=request, entries=(), shape=self._shape(request)
        )
        try:
            for use in request.adapters:
                flight.entries += (self.adapters.acquire(use),)
            if flight.rank > self.settings.max_rank:
                raise RequestError(
                    f"adapters: together of rank {flight.rank}, over this engine's max_rank "
                    f"{self.settings.max_rank}; use fewer of them, or smaller ones"
                )
        except Exception:
            self._admission.leave(flight)
            raise
        return flight

    def _shape(self, request: ImageRequest) -> Shape:
        """Height and width of the latents; RequestError where the backend has no such."""
        scale = self.base.reduction
        height, width = request.height or self.base.size, request.width or self.base.size
        shape, known = (height // scale, width // scale), self._backend.sizes
        if known and shape not in known:
            raise RequestError(
                f"width, height: {width}×{height} is not a size that this engine was compiled for; "
                f"use {' or '.join(f'{w * scale}×{h * scale}' for h, w in known)}"
            )
        return shape

    def _decode(self, images: Sequence[DenoisingJob]) -> None:
        started = time.monotonic()
        try:
            latents = torch.cat([image.latents for image in images])
            pixels = decode(self.base.vae, latents)
        except Exception as error:
            if len(images) == 1:
                self._fail(images[0].flight, error)
                return
            for image in images:
                self._decode([image])
            return
        seconds = time.monotonic() - started
        self._stats.seconds["decode"] += seconds
        for image, own in zip(images, pixels, strict=True):
            image.pixels = own
            image.flight.seconds["decode"] += seconds / len(images)

    def _answer(self, flight: InFlightRequest) -> None:
        result = flight.result(backend=self.backend, engine_digest=self.digest)
        self._leave(flight)
        self._stats.finished(len(flight.images))
        if flight.future.set_running_or_notify_cancel():
            flight.future.set_result(result)

    def _fail(self, flight: InFlightRequest, error: Exception) -> None:
        """Ends one request and no other."""
        if not self._leave(flight):
            return
        self._stats.requests[type(error).__name__] += 1
        if flight.future.set_running_or_notify_cancel():
            flight.future.set_exception(error)

    def _leave(self, flight: InFlightRequest) -> bool:
        """Takes a request out of the engine; False where it had left already."""
        with self._lock:
            for flights in (self._waiting, self._running):
                if flight in flights:
                    flights.remove(flight)
                    break
            else:
                return False
        self._admission.leave(flight)
        return True

    def _move(self, flight: InFlightRequest) -> None:
        with self._lock:
            self._waiting.remove(flight)
            self._running.append(flight)

    # Turning the crank

    def _loop(self) -> None:
        while not (self._closing and not self._waiting and not self._running):
            self._awake.clear()
            try:
                if not self.step():
                    self._awake.wait(IDLE if self._waiting else 1.0)
            except Exception as error:  # a fault of the engine's own: those in flight pay, once
                log.exception("engine: a step failed")
                for flight in list(self._running):
                    self._fail(flight, error)

    def _turn(self, future: Future[ImageResult] | None = None) -> None:
        """Lets work go on: waits for the thread, or takes a step where there is none."""
        if self._thread is not None and future is not None:
            future.exception()
        else:
            self._awake.clear()
            if not self.step() and self._waiting:
                self._awake.wait(IDLE)

    def _submit_when_possible(self, request: ImageRequest) -> Future[ImageResult]:
        while True:
            try:
                return self.submit(request)
            except QueueFull:
                if self._thread is not None:
                    time.sleep(IDLE)
                else:
                    self._turn()
