"""A promotion killed at any step leaves a state that the next command makes whole."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atelier.data.release import ReleaseFolder
from atelier.errors import Refused
from atelier.home import Home
from atelier.stores.registry import Registry
from pipelines.delivery.local.journal import PromotionJournal
from pipelines.delivery.local.promotion import retire
from pipelines.delivery.local.reconciler import reconcile
from tests.promoted import Adapter, State


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is cleaned up."""


class Fuse:
    """Kills before the n-th write that a promotion makes, wherever that is."""

    def __init__(self, at: int):
        self.at = at
        self.passed: list[str] = []

    def wrap(self, owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def fused(*args: Any, **kwargs: Any) -> Any:
            if len(self.passed) == self.at:
                raise Killed
            self.passed.append(f"{owner.__name__}.{name}")
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, fused)


WRITES = [
    (PromotionJournal, "put"),
    (PromotionJournal, "remove"),
    (ReleaseFolder, "put"),
    (ReleaseFolder, "remove"),
    (Registry, "set_alias"),
    (Registry, "remove_alias"),
]


def killed_at_each_write(
    build: Callable[[int], Adapter], act: Callable[[Adapter], object]
) -> Iterator[tuple[Adapter, list[str]]]:
    """The adapter after `act` was killed before its first write, its second, … and not at all."""
    for at in itertools.count():
        adapter, fuse, killed = build(at), Fuse(at), False
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in WRITES:
                fuse.wrap(owner, name, patch)
            try:
                act(adapter)
            except Killed:
                killed = True
            except Refused as error:
                assert "was reverted" in str(error)
        yield adapter, fuse.passed
        if not killed:
            return


@pytest.mark.parametrize("outcome", ["ready", "failed"])
def test_killed_before_any_write_the_next_command_ends_in_a_whole_state(
    shared: Adapter, tmp_path: Path, outcome: State
) -> None:
    def build(number: int) -> Adapter:
        adapter = shared.at(Home(tmp_path / str(number)))
        adapter.report(v1="ready")
        adapter.promote(1)
        adapter.report(v1="ready", v2=outcome)
        return adapter

    seen: list[str] = []
    for adapter, seen in killed_at_each_write(build, lambda one: one.promote(2)):
        (standing,) = reconcile(adapter.home, adapter.registry)
        assert standing.state in ("serving", "restored"), (seen, standing)
        assert adapter.released == adapter.alias == standing.version, (seen, standing)
        assert not adapter.under_way, seen
        began = "ReleaseFolder.put" in seen
        assert adapter.released == (2 if began and outcome == "ready" else 1), seen
    end = ["Registry.set_alias"] if outcome == "ready" else ["ReleaseFolder.put"]
    assert seen == ["PromotionJournal.put", "ReleaseFolder.put", *end, "PromotionJournal.remove"]


def test_killed_while_retiring_it_serves_or_it_does_not(shared: Adapter, tmp_path: Path) -> None:
    def build(number: int) -> Adapter:
        adapter = shared.at(Home(tmp_path / str(number)))
        adapter.report(v1="ready")
        adapter.promote(1)
        adapter.report()  # it is quick to let go
        return adapter

    def act(adapter: Adapter) -> object:
        return retire(adapter.name, registry=adapter.registry, home=adapter.home)

    seen: list[str] = []
    for adapter, seen in killed_at_each_write(build, act):
        reconcile(adapter.home, adapter.registry)
        assert adapter.released == adapter.alias, seen
        assert (adapter.released is None) == ("ReleaseFolder.remove" in seen), seen
        assert not adapter.under_way, seen
    assert len(seen) == 4


PROMOTION = """
import sys
from atelier.home import Home
from atelier.stores.registry import Registry
from pipelines.delivery.local.promotion import promote
from tests.judged import policy
name, uri, home = sys.argv[1:]
print("go", flush=True)
promote(name, 2, registry=Registry(uri), home=Home(__import__("pathlib").Path(home)),
        policy=policy(), wait=60)
"""


def test_a_process_killed_while_it_waits_is_finished_by_the_next(cat: Adapter) -> None:
    cat.report(v1="ready")
    cat.promote(1)
    cat.report(v1="ready", v2="loading")
    command = [sys.executable, "-c", PROMOTION, cat.name, cat.registry.uri, str(cat.home.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 180  # a busy machine imports MLflow slowly
        while cat.released != 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    assert (cat.released, cat.alias, cat.under_way) == (2, 1, True)
    assert reconcile(cat.home, cat.registry)[0].state == "pending"
    cat.report(v1="ready", v2="ready")
    assert reconcile(cat.home, cat.registry)[0].state == "serving"
    assert (cat.released, cat.alias, cat.under_way) == (2, 2, False)
