"""What a rollout does in which order, where Helm and the API server are played."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atelier.cluster.api import CONFIG_MAPS, Object
from atelier.cluster.helm import Revision
from atelier.cluster.releases import LABEL, PREFIX, RELEASE
from atelier.declaration import Declaration, Declarations
from atelier.errors import BadInput
from atelier.release import Pin, Release
from pipelines.propose import propose
from pipelines.rollout import Rollout

NAME = "thor"
ONE, TWO, THREE, BASE = (f"sha256:{digit * 64}" for digit in "123b")
NOW = datetime(2026, 11, 21, tzinfo=UTC)
PLATFORM = {"serving": {"base": BASE}, "image": {}, "smoke": {"secret": "s", "key": "k"}}


class KilledError(Exception):
    """Stands for SIGKILL, right after Helm has done its work."""


def pin(version: int) -> Pin:
    return Pin(version=version, digest=(ONE, TWO, THREE)[version - 1])


class Cluster:
    """An API server and Helm of one namespace; what Helm does, it does at once."""

    namespace = "atelier-production"

    def __init__(self) -> None:
        self.revisions: list[tuple[Revision, dict[str, Any]]] = []
        self.done: list[str] = []
        self.killed_after = ""

    # The API server

    def create(self, _: str, body: Object) -> Object:
        return {**body, "metadata": {**body["metadata"], "resourceVersion": "1"}}

    def delete(self, _: str, name: str, *, version: str = "") -> None:
        pass

    def list(self, path: str, _: object) -> tuple[list[Object], str]:
        assert path == CONFIG_MAPS
        if not self.revisions:
            return [], "1"
        fields = {"adapter", "base", "version", "digest", "canary"}
        data = {key: one for key, one in self.revisions[-1][1].items() if key in fields and one}
        metadata = {"name": f"{PREFIX}{NAME}", "labels": {LABEL: NAME}}
        return [{"metadata": metadata, "data": {RELEASE: json.dumps(data)}}], "1"

    # Helm

    def history(self, _: str) -> tuple[Revision, ...]:
        return tuple(revision for revision, _ in self.revisions)

    def values(self, name: str, revision: int | None = None, *, all_: bool = False) -> Any:
        if name != NAME:
            return PLATFORM
        found = [values for one, values in self.revisions if revision in (None, one.number)]
        return found[-1]

    def upgrade(self, _: str, chart: str, values: dict[str, Any], description: str) -> None:
        self._add("upgrade", values, description)

    def rollback(self, name: str, revision: int, description: str) -> None:
        self._add("rollback", self.values(name, revision), description)

    def recover(self, _: str) -> Revision | None:
        if not self.revisions or not self.revisions[-1][0].pending:
            return None
        self.done.append("recover")
        return self.revisions.pop()[0]

    def _add(self, work: str, values: dict[str, Any], description: str) -> None:
        before = [(replace(one, status="superseded"), values) for one, values in self.revisions]
        made = Revision(len(before) + 1, "deployed", description, NOW)
        self.revisions = [*before, (made, values)]
        self.done.append(work)
        if self.killed_after == work:
            raise KilledError

    def left_pending(self, status: str) -> None:
        """As Helm leaves the newest revision where it is killed."""
        (before, old), (last, values) = self.revisions[-2:]
        kept = (replace(before, status="deployed"), old)
        self.revisions[-2:] = [kept, (replace(last, status=status), values)]


class Scene:
    """A checkout, and the cluster that it declares."""

    def __init__(self, root: Path):
        (root / "k8s/environments/production/adapters").mkdir(parents=True)
        self.git = Declarations(root, "production")
        self.cluster = Cluster()
        cluster: Any = self.cluster
        registry: Any = SimpleNamespace(
            manifest_text=lambda name, version: "{}", aliased=lambda name, environment: None
        )
        self.rollout = Rollout(
            self.git,
            cluster,
            cluster,
            lambda: registry,
            chart="charts/adapter",
            approve=lambda registry, name, version: pin(version).digest,
            holder="me",
        )

    def declare(self, version: int, **more: Any) -> Declaration:
        said = {"adapter": NAME, "base": BASE, "reason": "promoted", **pin(version).model_dump()}
        declared = Declaration.model_validate(said | more)
        self.git.put(declared)
        return declared

    def serves(self) -> Release:
        found = self.rollout.live(NAME)
        assert found is not None
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Version 2 was promoted after version 1."""
    made = Scene(tmp_path)
    made.declare(1)
    made.rollout.promote(NAME)
    made.declare(2, replaces=pin(1).model_dump())
    made.rollout.promote(NAME)
    made.cluster.done.clear()
    return made


@pytest.mark.parametrize("reason", ["", " \n", "x" * 501])
def test_a_reason_that_git_cannot_keep_is_found_before_anything_is_done(
    scene: Scene, reason: str
) -> None:
    before = scene.git.get(NAME)
    for work in (scene.rollout.rollback, scene.rollout.record):
        with pytest.raises(BadInput, match="reason: git keeps one of 1 to 500 characters"):
            work(NAME, reason=reason)
    assert scene.cluster.done == [] and scene.git.get(NAME) == before


def test_so_is_that_of_a_proposal(scene: Scene) -> None:
    nobody: Any = None  # is asked
    with pytest.raises(BadInput, match="reason: git keeps one"):
        propose(NAME, 3, declared=None, registry=nobody, policy=nobody, environment="x", reason=" ")
