"""Traffic against a platform, and what every picture of it must look like."""

import itertools
import json
import threading
import time
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http

from atelier.adapter.package import Package
from atelier.data.release import Pin
from services.engine import AdapterUse, Engine, EngineSettings, ImageRequest
from services.engine.base import load_base
from tests.cluster.e2e.platform import Picture, Pixels, Platform
from tests.integration.stack import v2_inputs

PROMPTS = ("a red cat", "a robot on the beach", "a yellow flower", "a green boat in the snow")
SEEDS = (0, 1)
STEPS = 2
TOLERANCE = 2  # of 255: float sums in another order, at most
Asked = tuple[str, int]  # prompt, seed


class Oracle:
    """What each version of each adapter draws, by an engine of this process."""

    def __init__(self, platform: Platform, packages: dict[str, list[Path]]):
        self._engine = Engine(load_base(str(platform.base)), EngineSettings(slots=4, max_rank=32))
        self._made: dict[tuple[Asked, str], Pixels] = {}
        self._known: dict[str, AdapterUse] = {}
        for name in packages:
            for pin, package in platform.pins[name]:
                self.learn(pin, package)

    def learn(self, pin: Pin, package: Package) -> None:
        """A version that was registered."""
        self._engine.adapters.add(package, pin.version)
        self._known[pin.digest] = AdapterUse(package.manifest.name, pin.version)

    def draws(self, asked: Asked, digest: str) -> Pixels:
        """[height, width, 3] of the adapter with that digest; of the base for an empty one."""
        if (asked, digest) not in self._made:
            uses = (self._known[digest],) if digest else ()
            request = ImageRequest(asked[0], seed=asked[1], steps=STEPS, adapters=uses)
            self._made[asked, digest] = self._engine.generate(request).images[0]
        return self._made[asked, digest]

    def agrees(self, asked: Asked, picture: Picture) -> bool:
        """Whether the picture is what its digest draws."""
        other = self.draws(asked, picture.digest)
        return bool(np.abs(picture.pixels.astype(int) - other.astype(int)).max() <= TOLERANCE)

    def close(self) -> None:
        self._engine.close()


class Load:
    """Clients that ask with `keys` in turn, and never twice for one picture.

    Each waits `pause` seconds between two calls, and a `patient` one as long as a 503 asks it to.
    """

    def __init__(
        self,
        platform: Platform,
        keys: Sequence[str] = (),
        *,
        pause: float = 0.0,
        patient: bool = False,
    ):
        self._platform, self._pause, self._patient = platform, pause, patient
        self._keys = keys or [platform.key]
        self._gateway = platform.gateway  # the API server need not be there all the time
        self._numbers = itertools.count()
        self._enough = threading.Event()
        self.answers: list[tuple[float, str, Asked, Picture]] = []
        self.failures: list[str] = []

    def client(self) -> None:
        while not self._enough.is_set():
            number = next(self._numbers)
            name = ("thor", "thor", "loki")[number % 3]
            asked = (PROMPTS[number % len(PROMPTS)], SEEDS[number // len(PROMPTS) % len(SEEDS)])
            try:
                key = self._keys[number % len(self._keys)]
                picture = self._platform.draw(*asked, adapter=name, gateway=self._gateway, key=key)
            except urllib.error.HTTPError as error:
                said = error.read().decode(errors="replace")  # a problem document
                self.failures.append(f"HTTP {error.code}: {said[:500]}")
                if self._patient:
                    time.sleep(float(error.headers.get("Retry-After", 0)))
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            else:
                self.answers.append((time.monotonic(), name, asked, picture))
            self._enough.wait(self._pause)

    def digests(self, name: str) -> list[str]:
        """In the order of the answers."""
        return [picture.digest for _, who, _, picture in list(self.answers) if who == name]

    @contextmanager
    def running(self, clients: int = 4) -> Iterator[None]:
        with ThreadPoolExecutor(clients) as threads:
            futures = [threads.submit(self.client) for _ in range(clients)]
            try:
                yield
            finally:
                self._enough.set()
        for future in futures:
            future.result()


def direct(pod: Any, asked: Asked) -> Picture:
    """Straight to one pod's Triton, by name alone: what it answers by default."""
    return infer(f"{pod['status']['podIP']}:8080", asked)


def infer(address: str, asked: Asked, headers: Mapping[str, str] | None = None) -> Picture:
    """One picture of thor by a client of Triton; InferenceServerException where it says no."""
    inputs = v2_inputs(
        tritonclient.http,
        prompt=asked[0],
        seed=asked[1],
        steps=STEPS,
        adapters=[{"name": "thor"}],
    )
    client = tritonclient.http.InferenceServerClient(address, network_timeout=120)
    try:
        found = client.infer("atelier", inputs, headers=dict(headers or {}))
    finally:
        client.close()
    info = json.loads(found.as_numpy("INFO").reshape(-1)[0])
    return Picture(found.as_numpy("IMAGE")[0], info["adapters"][0]["digest"])
