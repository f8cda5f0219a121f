"""Traffic against a platform, and what every picture of it must look like."""

import json
import time
import urllib.error
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http

from atelier.adapter.package import Package
from atelier.addresses import host_port
from atelier.data.release import Pin
from commands.load import LoadGenerator
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


class CallError(Exception):
    """A call that failed: `HTTP <status>: <problem>`, or the kind of the error and its text."""


class Load(LoadGenerator[tuple[str, Asked, Picture]]):
    """Calls of thor and loki with `keys` in turn, never twice for one picture.

    Clients wait `pause` seconds between two calls, `patient` ones also as long as a 503 asks for.
    """

    def __init__(
        self,
        platform: Platform,
        keys: Sequence[str] = (),
        *,
        pause: float = 0.0,
        patient: bool = False,
    ):
        super().__init__(self._draw, pause=pause)
        self._platform, self._patient = platform, patient
        self._keys = keys or [platform.key]
        self._gateway = platform.gateway  # the API server need not be there all the time

    @property
    def drawn(self) -> list[tuple[str, Asked, Picture]]:
        """The adapter, the call and the picture of each answer, in their order."""
        return [one.answer for one in tuple(self.answers)]

    def digests(self, name: str) -> list[str]:
        """In the order of the answers."""
        return [picture.digest for who, _, picture in self.drawn if who == name]

    def _draw(self, number: int) -> tuple[str, Asked, Picture]:
        name = ("thor", "thor", "loki")[number % 3]
        asked = (PROMPTS[number % len(PROMPTS)], SEEDS[number // len(PROMPTS) % len(SEEDS)])
        key = self._keys[number % len(self._keys)]
        try:
            picture = self._platform.draw(*asked, adapter=name, gateway=self._gateway, key=key)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")  # a problem document
            if self._patient:
                time.sleep(float(error.headers.get("Retry-After", 0)))
            raise CallError(f"HTTP {error.code}: {said[:500]}") from error
        except Exception as error:
            raise CallError(f"{type(error).__name__}: {error}") from error
        return name, asked, picture


def direct(pod: Any, asked: Asked) -> Picture:
    """Straight to one pod's Triton, by name alone: what it answers by default."""
    return infer(host_port(pod["status"]["podIP"], 8080), asked)


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
