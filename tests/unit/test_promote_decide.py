"""Every case a promotion can be found in, and the one step that leads out of it."""

from pathlib import Path
from typing import Literal

import pytest

from atelier.data.release import Canary, Pin, Release
from atelier.home import Home
from pipelines.delivery.local.journal import Intent, IntentFolder
from pipelines.delivery.local.reconciler import Step, decide
from pipelines.delivery.readiness import Seen

BASE = "sha256:" + "b" * 64
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64

first = Release(adapter="thor-cat", base=BASE, version=1, digest=ONE)
second = first.with_version(Pin(version=2, digest=TWO), "promoted")
trying = first.with_canary(Canary(version=2, digest=TWO, percent=10), "promoted")
promoting = Intent(adapter="thor-cat", doing="promote", version=2, digest=TWO, before=1)
canary = Intent(adapter="thor-cat", doing="canary", version=2, digest=TWO, before=1)
retiring = Intent(adapter="thor-cat", doing="retire")


@pytest.mark.parametrize(
    ("release", "intent", "seen", "alias", "step"),
    [
        # A promotion, in the order in which it goes on.
        (first, promoting, "ready", 1, Step.FORGET),  # killed before the release was written
        (second, promoting, "absent", 1, Step.WAIT),
        (second, promoting, "loading", 1, Step.WAIT),
        (second, promoting, "failed", 1, Step.RESTORE),
        (second, promoting, "ready", 1, Step.VERIFY),
        (second, promoting, "ready", 2, Step.VERIFY),  # killed before the intent was removed
        (second, None, "ready", 2, Step.NOTHING),
        # The first one ever.
        (None, promoting, "absent", None, Step.FORGET),
        # A canary leaves the release's own version.
        (trying, canary, "ready", 1, Step.VERIFY),
        (trying, canary, "failed", 1, Step.RESTORE),
        (first, canary, "failed", 1, Step.FORGET),
        # A rollback has no intent; the alias follows, whatever fails.
        (first, None, "ready", 2, Step.VERIFY),
        (first, None, "loading", 2, Step.WAIT),
        (first, None, "failed", 2, Step.WAIT),
        (first, None, "ready", None, Step.VERIFY),  # or the alias could not be asked for
        # Served as the registry says: a stumbling replica changes nothing.
        (first, None, "failed", 1, Step.NOTHING),
        (first, None, "absent", 1, Step.NOTHING),
        # Rolled back before the alias had moved: something may still answer by the other version.
        (first, None, "loading", 1, Step.WAIT),
        # Retired, and killed before the release was removed.
        (None, retiring, "loading", 1, Step.WAIT),
        (None, retiring, "absent", 1, Step.UNALIAS),
        (None, retiring, "absent", None, Step.UNALIAS),
        (first, retiring, "ready", 1, Step.FORGET),
        (None, None, "absent", 1, Step.NOTHING),
    ],
)
def test_each_case_has_its_step(
    release: Release | None,
    intent: Intent | None,
    seen: Literal["absent", "loading", "ready", "failed"],
    alias: int | None,
    step: Step,
) -> None:
    assert decide(release, intent, Seen(seen, ""), alias) is step


def test_an_intent_is_read_as_written_and_damage_is_none(tmp_path: Path) -> None:
    intents = IntentFolder(Home(tmp_path))
    intents.put(promoting)
    assert intents.get("thor-cat") == promoting
    assert intents.names() == {"thor-cat"}
    (intents.path / "thor-cat.json").write_text('{"adapter": "thor-cat", "doing": "dance"}')
    assert intents.get("thor-cat") is None
    intents.remove("thor-cat")
    assert intents.names() == set()
