"""What `atelier serve` keeps beside the others: it finishes promotions that nobody could finish."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from atelier.files import write_atomic
from atelier.home import Home
from atelier.stores.registry import Registry
from tests.promoted import Adapter

ROOT = Path(__file__).resolve().parents[3]


class Gateway(ThreadingHTTPServer):
    """Answers /generate_image with one gray image of the digest that it is given."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.digest = ""
        self.asked: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Answer(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({**body, "key": self.headers["X-API-Key"]})
        answer = {"adapters": [{"digest": self.server.digest}], "images": [{"png": ""}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    server = Gateway()
    yield server
    server.shutdown()
    server.server_close()


class RunningLoop:
    """The process, and what it said."""

    def __init__(self, home: Home, registry: Registry, log: Path) -> None:
        self.log = log
        env = {**os.environ, "ATELIER_HOME": str(home.root), "MLFLOW_TRACKING_URI": registry.uri}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.delivery.local.reconcile_loop"],
                cwd=ROOT,
                env=env,
                stderr=output,
            )

    def said(self) -> str:
        return self.log.read_text()

    def until(self, condition: Callable[[], object], seconds: float = 180.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)


@contextmanager
def reconciling(home: Home, registry: Registry, log: Path) -> Iterator[RunningLoop]:
    loop = RunningLoop(home, registry, log)
    try:
        yield loop
    finally:
        loop.process.send_signal(signal.SIGTERM)
        loop.process.wait(30)


def test_a_promotion_made_while_nothing_ran_is_finished_once_it_serves(
    tmp_path: Path, gateway: Gateway
) -> None:
    """And it waits for MLflow, here on a volume that goes away and comes back."""
    volume = tmp_path / "volume"
    registry = Registry(f"sqlite:///{volume / 'mlflow.db'}")
    cat = Adapter(registry, tmp_path).at(Home(tmp_path / "home"))
    assert cat.promote(1).state == "pending"
    assert (cat.released, cat.alias, cat.under_way) == (1, None, True)

    volume.rename(tmp_path / "away")
    volume.touch()
    with reconciling(cat.home, registry, tmp_path / "reconciler.log") as keeper:
        gateway.digest = cat.digests[1]
        note = {"gateway": gateway.url, "smoke_key": "its own"}
        write_atomic(cat.home.root / "serve.json", json.dumps(note))
        keeper.until(lambda: "trying again later" in keeper.said())
        keeper.until(lambda: "no live replica" in keeper.said())
        cat.report(v1="loading")
        keeper.until(lambda: "not yet ready on r0" in keeper.said())
        cat.report(v1="ready")
        keeper.until(lambda: "the registry is unavailable" in keeper.said())

        volume.unlink()
        (tmp_path / "away").rename(volume)
        keeper.until(lambda: cat.alias == 1)
        keeper.until(lambda: not cat.under_way)
        assert (gateway.asked[-1]["adapter"], gateway.asked[-1]["key"]) == (cat.name, "its own")
        keeper.until(lambda: "serving: thor-cat: version 1 is released" in keeper.said())
        drawn = len(gateway.asked)
        cat.report(v1="ready", v2="loading")  # something changes, but not for the alias
        time.sleep(2)
        assert len(gateway.asked) == drawn
        assert "Traceback" not in keeper.said()
    assert (cat.released, cat.alias) == (1, 1)
