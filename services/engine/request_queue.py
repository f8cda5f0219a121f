"""The requests of one engine, from submission to answer: which wait, which run, how each ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from atelier.errors import Unavailable
from services.engine.in_flight import InFlightRequest
from services.engine.result import Cancelled, DeadlineExceeded, ImageResult, QueueFull
from services.engine.stats import EngineStats


class RequestQueue:
    """Waiting and running requests, in order of arrival. Thread-safe."""

    def __init__(
        self,
        *,
        limit: int,  # requests that may wait
        release: Callable[
            [InFlightRequest], None
        ],  # returns what a request holds, once it has left
        stats: EngineStats,
    ) -> None:
        self._limit, self._release, self._stats = limit, release, stats
        self._lock = threading.Lock()
        self._waiting: list[InFlightRequest] = []
        self._running: list[InFlightRequest] = []
        self._closed = False

    @property
    def waiting(self) -> Sequence[InFlightRequest]:
        """Requests without images yet, as of now."""
        return tuple(self._waiting)

    @property
    def running(self) -> Sequence[InFlightRequest]:
        """Requests whose images are drawn, as of now."""
        return tuple(self._running)

    @property
    def images(self) -> int:
        """How many images are being drawn."""
        return sum(len(flight.images) for flight in self.running)

    @property
    def closed(self) -> bool:
        """Whether no more requests are taken."""
        return self._closed

    @property
    def empty(self) -> bool:
        """Whether every request has been answered."""
        return not self._waiting and not self._running

    def add(self, flight: InFlightRequest) -> None:
        """Lets a request wait. Raises QueueFull, or Unavailable once closed, and releases it."""
        try:
            with self._lock:
                if self._closed:
                    raise Unavailable("engine: is shutting down; ask another replica")
                if len(self._waiting) >= self._limit:
                    raise QueueFull(
                        f"engine: {len(self._waiting)} requests wait already; try again later",
                        retry_after=max(1.0, len(self._waiting) * self._stats.seconds_per_image()),
                    )
                self._waiting.append(flight)
        except Unavailable:
            self._stats.requests["refused"] += 1
            self._release(flight)
            raise

    def run(self, flight: InFlightRequest) -> None:
        """Moves a waiting request to those that run."""
        with self._lock:
            self._waiting.remove(flight)
            self._running.append(flight)

    def answer(self, flight: InFlightRequest, result: ImageResult) -> None:
        """Ends a request with its result."""
        self._remove(flight)
        self._stats.finished(len(flight.images))
        if flight.future.set_running_or_notify_cancel():
            flight.future.set_result(result)

    def fail(self, flight: InFlightRequest, error: Exception) -> None:
        """Ends a request with an error, and no other; nothing where it has ended already."""
        if not self._remove(flight):
            return
        self._stats.requests[type(error).__name__] += 1
        if flight.future.set_running_or_notify_cancel():
            flight.future.set_exception(error)

    def fail_all(self, error: Exception, *, waiting: bool = True) -> None:
        """Ends every running request, and with `waiting` every other one."""
        for flight in (*(self.waiting if waiting else ()), *self.running):
            self.fail(flight, error)

    def withdraw(self) -> None:
        """Ends the requests that nobody waits for: cancelled, or past their deadline."""
        for flight in (*self.waiting, *self.running):
            if flight.future.cancelled():
                self.fail(flight, Cancelled("engine: withdrawn"))
            elif flight.overdue:
                calls = [f"{i.sampler.done} of {i.sampler.calls}" for i in flight.images[:1]]
                self.fail(
                    flight,
                    DeadlineExceeded(
                        f"deadline: {flight.request.deadline} s passed after "
                        f"{calls[0] if calls else 'none'} of the UNet's calls; ask for fewer steps "
                        "or wait longer"
                    ),
                )

    def close(self) -> None:
        """Takes no more requests; those that are here stay."""
        with self._lock:
            self._closed = True

    def _remove(self, flight: InFlightRequest) -> bool:
        """Whether the request was still here; then what it holds is released."""
        with self._lock:
            for flights in (self._waiting, self._running):
                if flight in flights:
                    flights.remove(flight)
                    break
            else:
                return False
        self._release(flight)
        return True
