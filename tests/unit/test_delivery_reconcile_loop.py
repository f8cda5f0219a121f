"""The cost of a check: only the adapters of which something changed are reconciled."""

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atelier.contract.gateway import Gateway, GatewayFolder, Routed
from atelier.data.release import ReleaseFolder
from pipelines.delivery.local import reconcile_loop as module
from pipelines.delivery.local.journal import JournalEntry, PromotionJournal
from pipelines.delivery.local.reconcile_loop import ReconcileLoop
from pipelines.delivery.local.reconciler import PromotionStatus
from tests.gateway import Stage, manifest_of

COUNT = 5


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path)
    for number in range(COUNT):
        one = manifest_of(1, name=f"adapter-{number}")
        made.load(one, 1)
        made.release(one, 1)
    return made


class Settled:
    """Which adapters were settled, and where the next ones stand."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.state: dict[str, str] = {}

    def settle(self, *_: Any, names: Collection[str], **__: Any) -> list[PromotionStatus]:
        self.names += sorted(names)
        found: Any = {name: self.state.get(name, "serving") for name in names}
        return [PromotionStatus(name, state, "so it is") for name, state in found.items()]

    def take(self) -> list[str]:
        found, self.names = self.names, []
        return found


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Settled:
    made = Settled()
    monkeypatch.setattr(module, "reconcile", made.settle)
    monkeypatch.setattr(module, "local_smoke", lambda home: lambda name, version: None)
    monkeypatch.setattr(module, "Registry", lambda uri: None)
    return made


def test_what_changes_is_settled_and_nothing_else(stage: Stage, settled: Settled) -> None:
    loop = ReconcileLoop(stage.home)
    loop.check()
    assert settled.take() == [f"adapter-{number}" for number in range(COUNT)]
    stage.report()  # heartbeats
    loop.check()
    assert settled.take() == []
    two = manifest_of(2, name="adapter-3")
    stage.release(two, 2)
    loop.check()
    assert settled.take() == ["adapter-3"]
    stage.load(two, 2)
    loop.check()
    assert settled.take() == ["adapter-3"]
    routes = {"adapter-4": Routed(serving=two.digest)}
    gateways = GatewayFolder(stage.home.gateways)
    gateways.put(Gateway(gateway="g", heartbeat=2e12, routes={}))
    loop.check()
    assert len(settled.take()) == COUNT  # a gateway came: it concerns every promotion
    gateways.put(Gateway(gateway="g", heartbeat=2e12, routes=routes))
    loop.check()
    assert settled.take() == ["adapter-4"]
    PromotionJournal(stage.home).put(JournalEntry(adapter="adapter-1", doing="retire"))
    loop.check()
    assert settled.take() == ["adapter-1"]
    ReleaseFolder(stage.home.releases).remove("adapter-1")
    loop.check()
    assert settled.take() == ["adapter-1"]


def test_what_is_not_settled_yet_is_tried_with_every_change_and_later(
    stage: Stage, settled: Settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    settled.state = {"adapter-2": "pending", "adapter-0": "disagrees"}
    loop = ReconcileLoop(stage.home)
    loop.check()
    settled.take()
    stage.release(manifest_of(2, name="adapter-3"), 2)
    loop.check()
    assert settled.take() == ["adapter-0", "adapter-2", "adapter-3"]
    loop.check()
    assert settled.take() == []
    now[0] = 10.0
    loop.check()
    assert settled.take() == ["adapter-0", "adapter-2"]
    settled.state = {}
    now[0] = 100.0
    loop.check()
    assert settled.take() == ["adapter-0", "adapter-2"]
    now[0] = 1000.0
    loop.check()
    assert settled.take() == []
