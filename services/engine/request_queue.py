"""The waiting and running requests of one engine, from submission to result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from atelier.errors import Unavailable
from services.engine.in_flight import DenoisingJob, InFlightRequest
from services.engine.result import Cancelled, DeadlineExceeded, ImageResult, QueueFull
from services.engine.stats import EngineStats


class RequestQueue:
    """Waiting and running requests, in order of arrival. Thread-safe."""

    def __init__(
        self,
        *,
        limit: int,  # maximum number of waiting requests
        release: Callable[[InFlightRequest], None],  # frees the slot and adapters of a request
        stats: EngineStats,
    ) -> None:
        self._limit, self._release, self._stats = limit, release, stats
        self._lock = threading.Lock()
        self._waiting: list[InFlightRequest] = []
        self._running: list[InFlightRequest] = []
        self._closed = False

    @property
    def waiting(self) -> Sequence[InFlightRequest]:
        """A snapshot of the requests that are not admitted yet."""
        return tuple(self._waiting)

    @property
    def running(self) -> Sequence[InFlightRequest]:
        """A snapshot of the admitted requests."""
        return tuple(self._running)

    @property
    def jobs(self) -> Sequence[DenoisingJob]:
        """A snapshot of the images of the admitted requests."""
        return tuple(job for flight in self.running for job in flight.images)

    @property
    def images(self) -> int:
        """The number of images in progress."""
        return len(self.jobs)

    @property
    def closed(self) -> bool:
        """Whether new requests are refused."""
        return self._closed

    @property
    def empty(self) -> bool:
        """Whether every request has ended."""
        return not self._waiting and not self._running

    def add(self, flight: InFlightRequest) -> None:
        """Append a waiting request.

        If it cannot be appended, release it and raise QueueFull, or Unavailable if the queue is
        closed.
        """
        try:
            with self._lock:
                if self._closed:
                    raise Unavailable("engine: shutting down; send the request to another replica")
                if len(self._waiting) >= self._limit:
                    raise QueueFull(
                        f"engine: the queue has {len(self._waiting)} waiting requests and is full; "
                        "try again later",
                        retry_after=max(1.0, len(self._waiting) * self._stats.seconds_per_image()),
                    )
                self._waiting.append(flight)
        except Unavailable:
            self._stats.requests["refused"] += 1
            self._release(flight)
            raise

    def run(self, flight: InFlightRequest) -> None:
        """Move a waiting request to the running requests."""
        with self._lock:
            self._waiting.remove(flight)
            self._running.append(flight)

    def answer(self, flight: InFlightRequest, result: ImageResult) -> None:
        """End a request with its result."""
        self._remove(flight)
        self._stats.finished(len(flight.images))
        if flight.future.set_running_or_notify_cancel():
            flight.future.set_result(result)

    def fail(self, flight: InFlightRequest, error: Exception) -> None:
        """End one request with an error. Does nothing if the request has already ended."""
        if not self._remove(flight):
            return
        self._stats.requests[type(error).__name__] += 1
        if flight.future.set_running_or_notify_cancel():
            flight.future.set_exception(error)

    def fail_all(self, error: Exception, *, waiting: bool = True) -> None:
        """End every running request, and with `waiting` also every waiting one, with an error."""
        for flight in (*(self.waiting if waiting else ()), *self.running):
            self.fail(flight, error)

    def withdraw(self) -> None:
        """End the requests that are cancelled or past their deadline."""
        for flight in (*self.waiting, *self.running):
            if flight.future.cancelled():
                self.fail(flight, Cancelled("engine: the request was cancelled"))
            elif flight.overdue:
                progress = "before the first UNet call"
                for image in flight.images[:1]:
                    progress = f"after {image.sampler.done} of {image.sampler.calls} UNet calls"
                self.fail(
                    flight,
                    DeadlineExceeded(
                        f"deadline: {flight.request.deadline} s passed {progress}; request fewer "
                        "steps or a longer deadline"
                    ),
                )

    def close(self) -> None:
        """Refuse new requests. Waiting and running requests stay."""
        with self._lock:
            self._closed = True

    def _remove(self, flight: InFlightRequest) -> bool:
        """Remove and release a request. Return False if it was removed before."""
        with self._lock:
            for flights in (self._waiting, self._running):
                if flight in flights:
                    flights.remove(flight)
                    break
            else:
                return False
        self._release(flight)
        return True
