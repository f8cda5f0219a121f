"""What `atelier serve` keeps beside the others: it finishes promotions that nobody could finish."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from atelier.files import write_atomic
from atelier.home import Home
from atelier.stores.registry import Registry
from tests.integration.gateway.v2 import V2Server
from tests.promoted import Adapter

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def triton() -> Iterator[V2Server]:
    server = V2Server()
    yield server
    server.stop()


class Settling:
    """The process, and what it said."""

    def __init__(self, home: Home, registry: Registry, log: Path) -> None:
        self.log = log
        env = {**os.environ, "ATELIER_HOME": str(home.root), "MLFLOW_TRACKING_URI": registry.uri}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "commands.serve.reconcile"], cwd=ROOT, env=env, stderr=output
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
def settling(home: Home, registry: Registry, log: Path) -> Iterator[Settling]:
    made = Settling(home, registry, log)
    try:
        yield made
    finally:
        made.process.send_signal(signal.SIGTERM)
        made.process.wait(30)


def test_a_promotion_made_while_nothing_ran_is_finished_once_it_serves(
    tmp_path: Path, triton: V2Server
) -> None:
    """And it waits for MLflow, here on a volume that goes away and comes back."""
    volume = tmp_path / "volume"
    registry = Registry(f"sqlite:///{volume / 'mlflow.db'}")
    cat = Adapter(registry, tmp_path).at(Home(tmp_path / "home"))
    assert cat.promote(1).state == "pending"
    assert (cat.released, cat.alias, cat.under_way) == (1, None, True)

    volume.rename(tmp_path / "away")
    volume.touch()
    with settling(cat.home, registry, tmp_path / "settling.log") as keeper:
        note = {"triton_grpc": f"127.0.0.1:{triton.port}"}
        write_atomic(cat.home.root / "serve.json", json.dumps(note))
        keeper.until(lambda: "trying again later" in keeper.said())
        assert "no live replica" in keeper.said()
        cat.report(v1="loading")
        keeper.until(lambda: "not yet ready on r0" in keeper.said())
        cat.report(v1="ready")
        keeper.until(lambda: "the registry is away" in keeper.said())

        volume.unlink()
        (tmp_path / "away").rename(volume)
        keeper.until(lambda: cat.alias == 1)
        keeper.until(lambda: not cat.under_way)
        assert [(one["name"], one["version"]) for one in triton.calls[-1].adapters] == [
            (cat.name, 1)
        ]
        keeper.until(lambda: "serving: thor-cat: version 1 is released" in keeper.said())
        drawn = len(triton.calls)
        cat.report(v1="ready", v2="loading")  # something changes, but not for the alias
        time.sleep(2)
        assert len(triton.calls) == drawn
        assert "Traceback" not in keeper.said()
    assert (cat.released, cat.alias) == (1, 1)
