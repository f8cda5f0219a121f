"""How much memory the pictures of all calls together may take in one process.

A call reserves the pixels of its pictures before the engine is asked, and gives them back when its
answer is sent. Calls beyond the budget wait in the order in which they came.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from atelier.errors import Unavailable

MIB = 2**20
# At most: gRPC holds a message three times when it has just come, 3 bytes a pixel each. Measured by
# bench/gateway.py: 9.4 of one call, 6.6 of many (raw pixels and PNGs that cannot be compressed).
BYTES_PER_PIXEL = 10
PROCESS_BYTES = 192 * MIB  # of a gateway that draws nothing, and of all but pictures
OWN_SIDE = 1024  # SDXL's: what a picture of unnamed size is taken for
RETRY_AFTER = 5.0  # seconds


_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE = 64 * 2**10


def return_freed_memory() -> None:
    """Let the C library give large blocks back to the system as soon as they are freed.

    glibc raises the size from which it does so up to 32 MiB by itself (mallopt(3)), and keeps what
    is smaller for each thread: after some calls for large pictures a process had kept twice what
    its pictures took. Does nothing with another C library.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


class GatewayBusy(Unavailable):
    """The pictures under way take all the memory that there is for them."""


class PixelBudget:
    """Pixels that are under way, at most `pixels` at once.

    At most `queue` calls wait, each at most `wait` seconds; GatewayBusy beyond either. Use it in
    one event loop.
    """

    def __init__(self, pixels: int, *, queue: int, wait: float) -> None:
        self.pixels = pixels
        self.free = pixels
        self._queue = queue
        self._wait = wait
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def reserved(self, pixels: int) -> AsyncIterator[None]:
        """Hold so many pixels; ValueError for more than there are in all."""
        await self._acquire(pixels)
        try:
            yield
        finally:
            self._release(pixels)

    async def _acquire(self, pixels: int) -> None:
        if pixels > self.pixels:
            raise ValueError(f"{pixels} pixels are more than the budget of {self.pixels}")
        if not self._waiting and pixels <= self.free:
            self.free -= pixels
            return
        if len(self._waiting) >= self._queue:
            raise GatewayBusy(f"{self._queue} calls wait already", retry_after=RETRY_AFTER)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, turn))
        try:
            async with asyncio.timeout(self._wait):
                await turn
        except BaseException as error:
            if not turn.cancelled():  # its turn came at the same moment
                self.free += pixels
            self._admit()  # those behind it may be smaller
            if isinstance(error, TimeoutError):
                text = f"no memory for these pictures within {self._wait:g} s"
                raise GatewayBusy(text, retry_after=RETRY_AFTER) from None
            raise

    def _release(self, pixels: int) -> None:
        self.free += pixels
        self._admit()

    def _admit(self) -> None:
        """Give the first who wait their turn; nobody overtakes."""
        self._waiting = deque(one for one in self._waiting if not one[1].cancelled())
        while self._waiting and self._waiting[0][0] <= self.free:
            pixels, turn = self._waiting.popleft()
            self.free -= pixels
            turn.set_result(None)
