"""The diffusion engine: many requests with many adapters share a sequence of UNet calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import diffusers
import torch

from atelier.contract.request import ImageRequest
from atelier.files import digest_json
from services.engine.admission import Admission
from services.engine.backends import make_backend
from services.engine.bank import Bank
from services.engine.base import Base, load_base
from services.engine.driver import IDLE, StepDriver
from services.engine.in_flight import DenoisingJob, names
from services.engine.layout import layout_of
from services.engine.model_runner import ModelRunner
from services.engine.request_queue import RequestQueue
from services.engine.result import Cancelled, ImageResult, QueueFull
from services.engine.scheduling import Batch, choose
from services.engine.settings import EngineSettings
from services.engine.stats import EngineStats, MetricFamily, metrics
from services.engine.store import AdapterStore
from services.engine.text import TextEncoders


class Engine:
    """Generate images on one device. Any thread may submit; one thread at a time runs a step."""

    def __init__(self, base: Base, settings: EngineSettings | None = None) -> None:
        """Share the parameters of `base` without changing them, and allocate the bank.

        Raises BadInput if the backend of `settings` cannot run on this machine or cannot run this
        base, and ValueError if the bank is too large for 32-bit indices.
        """
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
        self._backend = make_backend(settings, base, layout)
        self._admission = Admission(
            base,
            layout,
            settings,
            sizes=self._backend.sizes,
            store=self.adapters,
            bank=self._bank,
            text=TextEncoders(base, layout, cached=settings.embeddings),
            stats=self._stats,
        )
        self._requests = RequestQueue(
            limit=settings.queue, release=self._admission.leave, stats=self._stats
        )
        self._runner = ModelRunner(
            self._backend,
            base.vae,
            self._bank,
            decode_batch=settings.decode_batch,
            stats=self._stats,
            fail=self._requests.fail,
        )
        self._max_rows = min([settings.max_batch, *self._backend.ladder[-1:]])
        self.digest = digest_json(self.describe())
        self._device = threading.Lock()  # locked during a step
        self._driver = StepDriver(self.step, self._requests, self._awake)

    @classmethod
    def load(
        cls, base: str | Path, *, settings: EngineSettings | None = None, vae: str | None = None
    ) -> Engine:
        """Load a base from a folder or a hub ID, and return an engine. `vae` replaces its VAE.

        Raises BaseError if the base is not an SDXL base, and the errors of the constructor.
        """
        settings = settings or EngineSettings()
        device, dtype = settings.torch_device(), settings.torch_dtype()
        eager = settings.backend == "torch"
        loaded = load_base(base, vae=vae, device=device, dtype=dtype, unet_weights=eager)
        return cls(loaded, settings)

    def describe(self) -> dict[str, str | None]:
        """Return the properties of the engine that affect the pixels. `digest` covers them."""
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
        """The name of the backend: `torch`, `onnx` or `tensorrt`."""
        return self._backend.name

    # Requests

    def submit(self, request: ImageRequest) -> Future[ImageResult]:
        """Queue a request. Cancelling the future withdraws it before the next step.

        Raises RequestError, UnknownAdapter, QueueFull or Unavailable immediately.
        """
        flight = self._admission.accept(request)
        self._requests.add(flight)
        self._awake.set()
        return flight.future

    def generate(self, request: ImageRequest) -> ImageResult:
        """Return the result of one request. Before `start`, this thread runs the steps.

        If the queue is full, the call waits. Raises the other errors of `submit`, and
        AdapterRejected, Diverged, DeadlineExceeded or Cancelled if the request fails later.
        """
        return self.generate_many([request])[0]

    def generate_many(self, requests: Sequence[ImageRequest]) -> list[ImageResult]:
        """Run many requests together and return the results in the order of the requests.

        If a request fails, its error is raised and the other requests are withdrawn.
        """
        futures: list[Future[ImageResult]] = []
        try:
            for request in requests:
                futures.append(self._submit_when_possible(request))
            for future in futures:
                while not future.done():
                    self._driver.turn(future)
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    # Steps

    def step(self) -> bool:
        """Run one step: admit, schedule, denoise, retire. Return False if no image was denoised."""
        with self._device, torch.inference_mode():
            self._requests.withdraw()
            self._admission.admit(self._requests)
            batch = self._schedule()
            self._runner.denoise(batch.images)
            self._retire()
            return bool(batch.images)

    def start(self) -> None:
        """Run the steps in a background thread until `close`."""
        self._driver.start()

    def close(self, *, drain: bool = True) -> None:
        """Refuse new requests. Finish the accepted requests, or without `drain` cancel them."""
        self._requests.close()
        if not drain:
            with self._device:
                error = Cancelled("engine: closed before the request was done; send it again")
                self._requests.fail_all(error)
        self._driver.finish()
        self.adapters.close()

    def alive(self) -> bool:
        """Return whether the engine can process requests. Before `start`, the caller runs steps."""
        return self._driver.alive()

    def stats(self) -> EngineStats:
        """Return the counters, with the gauges updated."""
        stats, running, waiting = self._stats, self._requests.running, self._requests.waiting
        stats.queued = len(waiting)
        stats.running = self._requests.images
        stats.slots_in_use = self._admission.slots_in_use
        stats.bank_bytes, stats.host_bytes = self._bank.nbytes, self.adapters.nbytes
        stats.running_adapters = names(running)
        stats.waiting_adapters = names(waiting)
        return stats

    def metrics(self) -> tuple[MetricFamily, ...]:
        """Return the current metrics for Prometheus."""
        return metrics(self.stats())

    def _schedule(self) -> Batch[DenoisingJob]:
        """Choose the images of the next UNet call, and count the skipped calls of each image."""
        images = [job for job in self._requests.jobs if not job.denoised]
        batch = choose(images, max_rows=self._max_rows, patience=self.settings.patience)
        for image in images:
            image.left_out += 1
        for image in batch.images:
            image.left_out = 0
        return batch

    def _retire(self) -> None:
        """Decode denoised images, and end the requests whose images are all decoded."""
        denoised = [job for job in self._requests.jobs if job.denoised]
        self._runner.decode([job for job in denoised if job.pixels is None])
        for flight in self._requests.running:
            if all(image.pixels is not None for image in flight.images):
                result = flight.result(backend=self.backend, engine_digest=self.digest)
                self._requests.answer(flight, result)

    def _submit_when_possible(self, request: ImageRequest) -> Future[ImageResult]:
        while True:
            try:
                return self.submit(request)
            except QueueFull:
                if self._driver.has_thread:
                    time.sleep(IDLE)
                else:
                    self._driver.turn()
