"""Limit the memory of the images that one process has in progress.

A call reserves the pixels of its images before it is sent to the engine, and releases them when its
response has been sent. Calls beyond the budget wait in order of arrival.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from atelier.errors import Unavailable

MIB = 2**20
# An upper bound: gRPC keeps three copies of a message that has just arrived (3 bytes per pixel).
# bench/gateway.py measures 9.4 for one call and 6.6 for many (raw pixels, incompressible PNGs).
BYTES_PER_PIXEL = 10
PROCESS_BYTES = 192 * MIB  # memory of one process without images
OWN_SIDE = 1024  # pixels; SDXL's default, assumed for an image whose size is not given
RETRY_AFTER = 5.0  # seconds until a refused client should try again

_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE = 64 * 2**10


def return_freed_memory() -> None:
    """Make glibc return large blocks to the system as soon as they are freed.

    By default glibc raises the size from which a block counts as large to at most 32 MiB
    (mallopt(3)). Each thread keeps smaller blocks after they are freed. With this default, a
    process kept twice the memory of its images after some calls for large images. Does nothing with
    another C library.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


class GatewayBusy(Unavailable):
    """The memory for images is in use, and the queue is full or the wait was too long."""


class PixelBudget:
    """Limit the pixels in progress to `pixels`.

    At most `queue` calls wait, each at most `wait` seconds. Beyond either limit, GatewayBusy is
    raised. An object must be used in one event loop only.
    """

    def __init__(self, pixels: int, *, queue: int, wait: float) -> None:
        self.pixels = pixels
        self.free = pixels
        self._queue = queue
        self._wait = wait
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """The number of waiting calls."""
        return len(self._waiting)

    @asynccontextmanager
    async def reserved(self, pixels: int) -> AsyncIterator[None]:
        """Wait until `pixels` are free, and reserve them inside the block.

        Raises GatewayBusy beyond the limits, and ValueError if `pixels` exceed the whole budget.
        """
        await self._acquire(pixels)
        try:
            yield
        finally:
            self._release(pixels)

    async def _acquire(self, pixels: int) -> None:
        if pixels > self.pixels:
            raise ValueError(f"{pixels} pixels exceed the budget of {self.pixels}")
        if not self._waiting and pixels <= self.free:
            self.free -= pixels
            return
        if len(self._waiting) >= self._queue:
            text = f"{self._queue} requests are already waiting for memory; try again later"
            raise GatewayBusy(text, retry_after=RETRY_AFTER)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, turn))
        try:
            async with asyncio.timeout(self._wait):
                await turn
        except BaseException as error:
            if not turn.cancelled():  # it was admitted at the same moment
                self.free += pixels
            self._admit()  # the next calls may be smaller and fit
            if isinstance(error, TimeoutError):
                text = f"no memory for these images within {self._wait:g} s; try again later"
                raise GatewayBusy(text, retry_after=RETRY_AFTER) from None
            raise

    def _release(self, pixels: int) -> None:
        self.free += pixels
        self._admit()

    def _admit(self) -> None:
        """Admit waiting calls in order of arrival, until a call does not fit."""
        self._waiting = deque(call for call in self._waiting if not call[1].cancelled())
        while self._waiting and self._waiting[0][0] <= self.free:
            pixels, turn = self._waiting.popleft()
            self.free -= pixels
            turn.set_result(None)
