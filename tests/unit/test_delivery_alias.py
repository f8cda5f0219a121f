"""Every case a promotion can be found in, and the one step that leads out of it."""

from pathlib import Path
from typing import Literal

import pytest

from atelier.data.release import Canary, Pin, Release
from atelier.home import Home
from pipelines.delivery.alias import JournalEntry, NextStep, decide
from pipelines.delivery.local.journal import PromotionJournal
from pipelines.delivery.readiness import Readiness

BASE = "sha256:" + "b" * 64
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64

first = Release(adapter="thor-cat", base=BASE, version=1, digest=ONE)
second = first.with_version(Pin(version=2, digest=TWO), "promoted")
trying = first.with_canary(Canary(version=2, digest=TWO, percent=10), "promoted")
promoting = JournalEntry(adapter="thor-cat", doing="promote", version=2, digest=TWO, before=1)
canary = JournalEntry(adapter="thor-cat", doing="canary", version=2, digest=TWO, before=1)
retiring = JournalEntry(adapter="thor-cat", doing="retire")


@pytest.mark.parametrize(
    ("release", "intent", "seen", "alias", "step"),
    [
        # A promotion, in the order in which it goes on.
        (first, promoting, "ready", 1, NextStep.FORGET),  # killed before the release was written
        (second, promoting, "absent", 1, NextStep.WAIT),
        (second, promoting, "loading", 1, NextStep.WAIT),
        (second, promoting, "failed", 1, NextStep.RESTORE),
        (second, promoting, "ready", 1, NextStep.VERIFY),
        (second, promoting, "ready", 2, NextStep.VERIFY),  # killed before the intent was removed
        (second, None, "ready", 2, NextStep.NOTHING),
        # The first one ever.
        (None, promoting, "absent", None, NextStep.FORGET),
        # A canary leaves the release's own version.
        (trying, canary, "ready", 1, NextStep.VERIFY),
        (trying, canary, "failed", 1, NextStep.RESTORE),
        (first, canary, "failed", 1, NextStep.FORGET),
        # A rollback has no intent; the alias follows, whatever fails.
        (first, None, "ready", 2, NextStep.VERIFY),
        (first, None, "loading", 2, NextStep.WAIT),
        (first, None, "failed", 2, NextStep.WAIT),
        (first, None, "ready", None, NextStep.VERIFY),  # or the alias could not be asked for
        # Served as the registry says: a stumbling replica changes nothing.
        (first, None, "failed", 1, NextStep.NOTHING),
        (first, None, "absent", 1, NextStep.NOTHING),
        # Rolled back before the alias had moved: something may still answer by the other version.
        (first, None, "loading", 1, NextStep.WAIT),
        # Retired, and killed before the release was removed.
        (None, retiring, "loading", 1, NextStep.WAIT),
        (None, retiring, "absent", 1, NextStep.UNALIAS),
        (None, retiring, "absent", None, NextStep.UNALIAS),
        (first, retiring, "ready", 1, NextStep.FORGET),
        (None, None, "absent", 1, NextStep.NOTHING),
    ],
)
def test_each_case_has_its_step(
    release: Release | None,
    intent: JournalEntry | None,
    seen: Literal["absent", "loading", "ready", "failed"],
    alias: int | None,
    step: NextStep,
) -> None:
    assert decide(release, intent, Readiness(seen, ""), alias) is step


def test_an_intent_is_read_as_written_and_damage_is_none(tmp_path: Path) -> None:
    intents = PromotionJournal(Home(tmp_path))
    intents.put(promoting)
    assert intents.get("thor-cat") == promoting
    assert intents.names() == {"thor-cat"}
    (intents.path / "thor-cat.json").write_text('{"adapter": "thor-cat", "doing": "dance"}')
    assert intents.get("thor-cat") is None
    intents.remove("thor-cat")
    assert intents.names() == set()
