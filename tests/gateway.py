"""A home as agents and promotions leave it, an engine that paints without a model, a client."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from atelier.contract.info import Info, UsedAdapter
from atelier.contract.replica import HeldAdapter, Replica, ReplicaFolder
from atelier.data.manifest import BaseRef, Manifest
from atelier.data.names import hex_of
from atelier.data.release import Release, ReleaseFolder
from atelier.files import write_atomic
from atelier.home import Home
from services.gateway.app import create_app
from services.gateway.keys import KeyStore
from services.gateway.settings import GatewaySettings
from services.gateway.triton_client import ImageAnswer, ImageCall

BASE = "sha256:" + "ba" * 32
FILE = "sha256:" + "f1" * 32
SIDE = 16


def manifest_of(version: int, *, name: str = "thor-cat", trigger: str = "sks cat") -> Manifest:
    """A manifest whose digest differs from version to version."""
    return Manifest(
        name=name,
        base=BaseRef(id="models/miniature", digest=BASE),
        rank=4,
        alpha=float(version),
        trigger=trigger,
        class_=trigger.split()[-1],
        styles={"portrait": "{prompt}, close-up", "frozen": "{prompt} in the snow"},
        files={"adapter.safetensors": FILE},
    )


class Stage:
    """One machine's home: packages on the volume, releases, and what replicas report."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.held: dict[str, dict[tuple[str, int], HeldAdapter]] = {}
        self.addresses: dict[str, str] = {}  # of replicas' HTTP

    def package(self, manifest: Manifest) -> str:
        """Put a package's manifest on the volume; its digest."""
        folder = self.home.packages / hex_of(manifest.digest)
        write_atomic(folder / "manifest.json", manifest.canonical())
        return manifest.digest

    def release(self, manifest: Manifest, version: int) -> Release:
        """Promote a version."""
        folder = ReleaseFolder(self.home.releases)
        old = folder.get(manifest.name)
        new = Release(adapter=manifest.name, base=BASE, version=version, digest=manifest.digest)
        folder.put(old.with_version(new.pin, "promoted") if old else new)
        return folder.list()[manifest.name]

    def load(
        self, manifest: Manifest, version: int, *, replica: str = "one", state: str = "ready"
    ) -> None:
        """Let a replica hold a version."""
        self.package(manifest)
        held = HeldAdapter.model_validate(
            {"name": manifest.name, "version": version, "digest": manifest.digest, "state": state}
        )
        self.held.setdefault(replica, {})[(manifest.name, version)] = held
        self.report()

    def drop(self, name: str, version: int, *, replica: str = "one") -> None:
        """Let a replica forget a version."""
        self.held[replica].pop((name, version))
        self.report()

    def report(self, *, age: float = 0.0) -> None:
        """Every replica reports what it holds, `age` seconds ago."""
        for replica, held in self.held.items():
            ReplicaFolder(self.home.replicas).put(
                Replica(
                    replica=replica,
                    base=BASE,
                    backend="painted",
                    engine_digest="sha256:" + "e0" * 32,
                    heartbeat=time.time() - age,
                    adapters=tuple(held.values()),
                    address=self.addresses.get(replica),
                )
            )

    def settings(self, **changes: object) -> GatewaySettings:
        """The gateway's settings for this home."""
        database = f"sqlite:///{self.home.root / 'gateway.db'}"
        return GatewaySettings.model_validate(
            {"home": self.home.root, "database_url": database, **changes}
        )


class PaintedEngine:
    """Pictures of one colour, the version's; it can be told to fail, to wait and to forget."""

    def __init__(self, digests: Callable[[], dict[tuple[str, int], str]]) -> None:
        self._digests = digests
        self.calls: list[ImageCall] = []
        self.errors: list[Exception] = []
        self.up = True
        self.delay = 0.0
        self.cancelled = 0
        self.before: Callable[[], None] = lambda: None

    async def generate(self, call: ImageCall, *, timeout: float, request_id: str) -> ImageAnswer:
        self.calls.append(call)
        self.before()
        if self.errors:
            raise self.errors.pop(0)
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.paint(call)

    def paint(self, call: ImageCall) -> ImageAnswer:
        versions = [one.version for one in call.adapters]
        shape = (call.images, call.height or SIDE, call.width or SIDE, 3)
        pixels = np.full(shape, max(versions, default=0), np.uint8)
        used = tuple(
            UsedAdapter(
                name=one.name,
                version=one.version,
                digest=self._digests()[(one.name, one.version)],
                weight=one.weight,
            )
            for one in call.adapters
        )
        seeds = tuple(call.seed + index for index in range(call.images))
        info = Info(seeds=seeds, adapters=used, base=BASE, backend="painted", engine_digest=FILE)
        return ImageAnswer(pixels, info)

    async def ready(self) -> bool:
        return self.up

    async def close(self) -> None:
        self.up = False


def digests(manifests: Iterable[tuple[int, Manifest]]) -> dict[tuple[str, int], str]:
    """What an engine knows of the versions it holds."""
    return {(manifest.name, version): manifest.digest for version, manifest in manifests}


ONE, TWO = manifest_of(1), manifest_of(2)


class Client:
    """A client with a key, its gateway, and the stage behind it."""

    def __init__(self, stage: Stage, engine: PaintedEngine, client: TestClient, key: str) -> None:
        self.stage = stage
        self.engine = engine
        self.http = client
        self.key = key

    def make(self, **body: Any) -> Any:
        return self.post({"prompt": "a cat on the beach", "seed": 7, **body})

    def post(self, body: Any, **headers: str) -> Any:
        given = {"X-API-Key": self.key, **headers}
        return self.http.post("/generate_image", json=body, headers=given)

    def usage(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.key}"}
        found: dict[str, Any] = self.http.get("/api_key_usage", headers=headers).json()
        return found

    def metric(self, name: str, **labels: str) -> float:
        registry = self.http.app.state.parts.metrics.registry  # type: ignore[attr-defined]
        return registry.get_sample_value(f"atelier_gateway_{name}", labels) or 0.0


@contextmanager
def serving(root: Path, **changes: object) -> Iterator[Client]:
    """A gateway with `thor-cat` in version 1, and a key for ten pictures; `changes` of settings."""
    stage = Stage(root)
    stage.load(ONE, 1)
    stage.release(ONE, 1)
    engine = PaintedEngine(lambda: digests([(1, ONE), (2, TWO)]))
    settings = stage.settings(body_limit=2048, prompt_limit=500, max_images=4, **changes)
    key, _ = KeyStore(settings.database_url).create("tests", quota=10)
    app = create_app(settings, engine=engine)
    with TestClient(app, raise_server_exceptions=False) as http:
        yield Client(stage, engine, http, key)
