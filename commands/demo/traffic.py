"""Requests that run during the swap, and the check that each picture comes from one version.

Every request uses one of a few prompts and seeds. Their pictures are drawn with both versions
afterwards, so each answer can be compared with the pictures of the digest that it names.
"""

import io
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.errors import AtelierError, Unavailable
from commands.serve.gateway_client import GatewayClient

CLIENTS: Final = 3
PATIENCE: Final = 600.0  # seconds
STEPS: Final = 6  # denoising steps; the traffic tests the swap, not the quality
TOLERANCE: Final = 2  # of 255; other requests in the batch may change the last bit of a float

Pixels: TypeAlias = NDArray[np.uint8]
Shot: TypeAlias = tuple[str, int]  # prompt, seed


@dataclass(frozen=True)
class Seen:
    """One answer, with the times of request and answer in seconds since the traffic began."""

    asked: float
    came: float
    shot: Shot
    version: int
    digest: str
    pixels: Pixels


@dataclass
class Traffic:
    """A few clients that send requests without pause until the end. Nothing is retried."""

    client: GatewayClient
    adapter: str
    shots: Sequence[Shot]
    seen: list[Seen] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,), daemon=True)
            for number in range(CLIENTS)
        ]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def now(self) -> float:
        """Seconds since the traffic began."""
        return time.monotonic() - self._began

    @property
    def count(self) -> int:
        """The number of answers and failures so far."""
        return len(self.seen) + len(self.failures)

    def wait_for(self, count: int, *, version: int | None = None) -> None:
        """Wait for `count` more answers, of `version` if one is given."""
        before, deadline = self._of(version), time.monotonic() + PATIENCE
        while self._of(version) < before + count and not self.failures:
            if time.monotonic() > deadline:
                which = f" of version {version}" if version else ""
                raise Unavailable(f"no {count} pictures{which} came within {PATIENCE:.0f} s")
            time.sleep(0.05)

    def _of(self, version: int | None) -> int:
        with self._lock:
            return sum(version in (None, one.version) for one in self.seen)

    def _ask(self, number: int) -> None:
        turn = number
        while not self._stop.is_set():
            shot = self.shots[turn % len(self.shots)]
            turn += 1
            asked = self.now
            try:
                seen = ask(self.client, self.adapter, shot)
            except AtelierError as error:
                with self._lock:
                    self.failures.append(f"{asked:.2f} s: {error}")
                continue
            with self._lock:
                version, digest, pixels = seen
                self.seen.append(Seen(asked, self.now, shot, version, digest, pixels))


def ask(client: GatewayClient, adapter: str, shot: Shot) -> tuple[int, str, Pixels]:
    """Draw one picture; returns its version, digest and pixels."""
    prompt, seed = shot
    answer = client.generate(prompt=prompt, seed=seed, adapter=adapter, steps=STEPS)
    used: dict[str, Any] = answer.body["adapters"][0]
    return used["version"], used["digest"], pixels_of(answer.pictures[0].png)


def pixels_of(png: bytes) -> Pixels:
    """The pixels of a PNG, uint8 [height, width, 3]."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def apart(one: Pixels, other: Pixels) -> int:
    """The largest difference between corresponding pixels, of 255."""
    return int(np.abs(one.astype(np.int16) - other.astype(np.int16)).max())


def strangers(seen: Sequence[Seen], known: dict[tuple[Shot, str], Pixels]) -> list[Seen]:
    """The answers whose picture does not match the digest that they name."""

    def strange(one: Seen) -> bool:
        pixels = known.get((one.shot, one.digest))
        return pixels is None or apart(one.pixels, pixels) > TOLERANCE

    return [one for one in seen if strange(one)]
