"""What a rollout does in which order, where Helm and the API server are played."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atelier.data.declaration import Declaration, Declarations
from atelier.data.release import Canary, Pin, Release
from atelier.errors import BadInput, Refused, Unavailable
from atelier.platform.api import CONFIG_MAPS, Listing, NotFound, Object
from atelier.platform.helm import HelmRefused, Revision
from atelier.platform.release_configmaps import LABEL, PREFIX, RELEASE
from atelier.stores.registry import VersionInfo
from pipelines.delivery.approval import CanaryTrial
from pipelines.delivery.cluster import (
    AdapterReleases,
    Promotion,
    environment_status,
    record,
    roll_back,
)
from pipelines.delivery.cluster.promotion import trial_of
from pipelines.delivery.declare import propose

NAME = "thor"
ONE, TWO, THREE, BASE = (f"sha256:{digit * 64}" for digit in "123b")
NOW = datetime(2026, 11, 21, tzinfo=UTC)
PLATFORM = {"serving": {"base": BASE}, "image": {}, "smoke": {"secret": "s", "key": "k"}}


class KilledError(Exception):
    """Stands for SIGKILL, right after Helm has done its work."""


def pin(version: int) -> Pin:
    return Pin(version=version, digest=(ONE, TWO, THREE)[version - 1])


def approved(version: int) -> VersionInfo:
    created = datetime(2026, 11, 21, tzinfo=UTC)
    return VersionInfo(NAME, version, pin(version).digest, "run", {}, (), created)


class Cluster:
    """An API server and Helm of one namespace; what Helm does, it does at once."""

    namespace = "atelier-production"

    def __init__(self) -> None:
        self.revisions: list[tuple[Revision, dict[str, Any]]] = []
        self.done: list[str] = []
        self.killed_after = ""
        self.bad = ""  # a digest

    # The API server

    def create(self, _: str, body: Object) -> Object:
        return {**body, "metadata": {**body["metadata"], "resourceVersion": "1"}}

    def delete(self, _: str, name: str, *, version: str = "") -> None:
        pass

    def list(self, path: str, _: object) -> tuple[list[Object], str]:
        if path != CONFIG_MAPS or not self.revisions:
            return [], "1"
        fields = {"adapter", "base", "version", "digest", "canary"}
        data = {key: one for key, one in self.revisions[-1][1].items() if key in fields and one}
        metadata = {"name": f"{PREFIX}{NAME}", "labels": {LABEL: NAME}}
        return [{"metadata": metadata, "data": {RELEASE: json.dumps(data)}}], "1"

    def listing(self, path: str, query: object) -> Listing:
        return Listing(*self.list(path, query), at=None)

    def get(self, path: str, name: str) -> Object:
        found = {one["metadata"]["name"]: one for one in self.list(path, None)[0]}
        if name not in found:
            raise NotFound(name)
        return found[name]

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
        if values["digest"] == self.bad:
            self.leave("failed")
            raise HelmRefused("its hook says no")

    def rollback(self, name: str, revision: int, description: str) -> None:
        self._add("rollback", self.values(name, revision), description)

    def recover(self, _: str) -> Revision | None:
        if not self.revisions or not self.revisions[-1][0].pending:
            return None
        self.done.append("recover")
        return self.revisions.pop()[0]

    def _add(self, work: str, values: dict[str, Any], description: str) -> None:
        before = [(replace(one, status="superseded"), old) for one, old in self.revisions]
        made = Revision(len(before) + 1, "deployed", description, NOW)
        self.revisions = [*before, (made, values)]
        self.done.append(work)
        if self.killed_after == work:
            raise KilledError

    def leave(self, status: str) -> None:
        """The newest revision, as Helm does where it is killed or fails."""
        last, values = self.revisions[-1]
        self.revisions[-1] = (replace(last, status=status), values)


class Scene:
    """A checkout, and the cluster that it declares."""

    def __init__(self, root: Path):
        (root / "k8s/environments/production/adapters").mkdir(parents=True)
        self.git = Declarations(root, "production")
        self.cluster = Cluster()
        cluster: Any = self.cluster
        registry: Any = SimpleNamespace(
            manifest_text=lambda info: "{}", aliased=lambda name, environment: None
        )
        self.releases = AdapterReleases(self.git, cluster, cluster, lambda: registry, holder="me")
        self.promotion = Promotion(
            self.releases,
            chart="charts/adapter",
            approve=lambda registry, name, version: approved(version),
        )

    def declare(self, version: int, **more: Any) -> Declaration:
        said = {"adapter": NAME, "base": BASE, "reason": "promoted", **pin(version).model_dump()}
        declared = Declaration.model_validate(said | more)
        self.git.put(declared)
        return declared

    def killed_on_its_way_back(self, *, pending: bool = False) -> None:
        """Once Helm has gone back, or while it did; either way git has not heard of it."""
        self.cluster.killed_after = "rollback"
        with pytest.raises(KilledError):
            roll_back(self.releases, NAME, reason="grey cats")
        self.cluster.killed_after = ""
        if pending:
            self.cluster.leave("pending-rollback")
        self.cluster.done.clear()

    def serves(self) -> Release:
        found = self.releases.live(NAME)
        assert found is not None
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Version 2 was promoted after version 1."""
    made = Scene(tmp_path)
    made.declare(1)
    made.promotion.promote(NAME)
    made.declare(2, replaces=pin(1).model_dump())
    made.promotion.promote(NAME)
    made.cluster.done.clear()
    return made


@pytest.mark.parametrize("reason", ["", " \n", "x" * 501])
def test_a_reason_that_git_cannot_keep_is_found_before_anything_is_done(
    scene: Scene, reason: str
) -> None:
    before = scene.git.get(NAME)
    for work in (roll_back, record):
        with pytest.raises(BadInput, match="reason: must have 1 to 500 characters"):
            work(scene.releases, NAME, reason=reason)
    assert scene.cluster.done == [] and scene.git.get(NAME) == before


def test_so_is_that_of_a_proposal(scene: Scene) -> None:
    nobody: Any = None  # is asked
    with pytest.raises(BadInput, match="reason: must have"):
        propose(NAME, 3, declared=None, registry=nobody, policy=nobody, environment="x", reason=" ")


def test_what_was_rolled_back_from_is_not_served_again_though_git_never_heard(
    scene: Scene,
) -> None:
    scene.killed_on_its_way_back()
    said = (
        r"its rollback is not recorded in git \(Helm revision 3: grey cats\); run `atelier record"
    )
    with pytest.raises(Refused, match=said):
        scene.promotion.promote(NAME)
    assert scene.cluster.done == [] and scene.serves().pin == pin(1)
    record(scene.releases, NAME, reason="grey cats")
    written = scene.git.get(NAME)
    assert (written.pin, written.revision) == (pin(1), 3)
    assert [(one.version, one.reason) for one in written.withdrawn] == [(2, "grey cats")]
    scene.promotion.promote(NAME)
    assert scene.serves().pin == pin(1)
    scene.declare(2, replaces=pin(1).model_dump(), revision=3)  # a review wants it back
    scene.promotion.promote(NAME)
    assert scene.serves().pin == pin(2)


def test_a_rollback_that_was_cut_off_is_finished_by_no_promotion(scene: Scene) -> None:
    scene.killed_on_its_way_back(pending=True)
    said = (
        r"its rollback was interrupted \(Helm revision 3: grey cats\); run `atelier rollback thor"
    )
    with pytest.raises(Refused, match=said):
        scene.promotion.promote(NAME)
    assert scene.cluster.done == []
    roll_back(scene.releases, NAME, reason="grey cats")
    assert scene.cluster.done == ["recover", "rollback"] and scene.serves().pin == pin(1)
    assert [one.version for one in scene.git.get(NAME).withdrawn] == [2]


def test_a_canary_that_was_ended_does_not_begin_again(scene: Scene) -> None:
    scene.declare(2, canary=Canary(**pin(3).model_dump(), percent=10))
    scene.promotion.promote(NAME)
    scene.killed_on_its_way_back()
    with pytest.raises(Refused, match="its rollback is not recorded in git"):
        scene.promotion.promote(NAME)
    assert scene.serves().canary is None


def test_a_canary_alone_is_taken_back_and_not_once_it_serves_everybody(scene: Scene) -> None:
    scene.declare(2, canary=Canary(**pin(3).model_dump(), percent=10))
    scene.promotion.promote(NAME)
    with pytest.raises(Refused, match="is no longer the canary; nothing was changed"):
        roll_back(scene.releases, NAME, reason="falls behind", canary=ONE)
    roll_back(scene.releases, NAME, reason="falls behind", canary=THREE)
    assert (scene.serves().pin, scene.serves().canary) == (pin(2), None)
    assert [one.version for one in scene.git.get(NAME).withdrawn] == [3]
    with pytest.raises(Refused, match="is no longer the canary; nothing was changed"):
        roll_back(scene.releases, NAME, reason="falls behind", canary=TWO)
    assert scene.serves().pin == pin(2)


def test_only_a_canary_that_shall_serve_everybody_needs_live_scores(scene: Scene) -> None:
    scene.declare(2, canary=Canary(**pin(3).model_dump(), percent=10))
    scene.promotion.promote(NAME)
    assert trial_of(scene.releases, approved(3)) is None  # it stays the canary
    assert trial_of(scene.releases, approved(2)) is None
    scene.declare(3, replaces=pin(2).model_dump())
    assert trial_of(scene.releases, approved(3)) == CanaryTrial("production", pin(2))
    scene.promotion.promote(NAME)
    assert trial_of(scene.releases, approved(3)) is None  # repeated


def test_a_second_rollback_does_not_hide_the_first(scene: Scene) -> None:
    scene.cluster.rollback(NAME, 1, "Rollback to 1")  # by hand: Helm's own words
    scene.cluster.rollback(NAME, 1, "Rollback to 1")
    with pytest.raises(Refused, match=r"Helm revision 4: Rollback to 1\)"):
        scene.promotion.promote(NAME)


def test_a_version_that_mends_what_was_left_may_come(scene: Scene) -> None:
    scene.killed_on_its_way_back()
    scene.declare(3, replaces=pin(1).model_dump())
    scene.promotion.promote(NAME)
    assert scene.serves().pin == pin(3)


@pytest.mark.parametrize("pending", [False, True])
def test_a_promotion_that_was_taken_back_may_be_tried_again(scene: Scene, pending: bool) -> None:
    """That was the promotion's own doing: its cause may be gone by now."""
    scene.cluster.bad = THREE
    scene.declare(3, replaces=pin(2).model_dump())
    with pytest.raises(Refused, match="was reverted; revision 2 serves, as before"):
        scene.promotion.promote(NAME)
    if pending:
        scene.cluster.leave("pending-rollback")
    scene.cluster.bad = ""
    scene.promotion.promote(NAME)
    assert scene.serves().pin == pin(3)


def test_a_reason_is_told_as_it_was_given(scene: Scene) -> None:
    roll_back(scene.releases, NAME, reason=" grey cats ")
    last = scene.cluster.history(NAME)[-1]
    assert (last.description, last.reason) == ("Rollback to 1: grey cats", "grey cats")
    assert scene.git.get(NAME).reason == "grey cats"
    scene.declare(3, replaces=pin(1).model_dump(), revision=3)
    scene.promotion.promote(NAME)
    past = scene.cluster.values(NAME)["previous"][0]
    assert (past["version"], past["reason"]) == (1, "grey cats")


def test_a_status_without_the_registry_compares_the_other_sides(scene: Scene) -> None:
    """What a person sees while MLflow is away, and the exit code by which a workflow knows."""

    def away() -> Any:
        raise Unavailable("MLflow is away")

    cluster: Any = scene.cluster
    releases = AdapterReleases(scene.git, cluster, cluster, away, holder="me")
    status = environment_status(releases)
    (line,) = status.lines
    assert (line.adapter, line.revision and line.revision.number) == (NAME, 2)
    assert (status.differences, status.exit_code) == ([], 3)
    assert status.registry_problem == "aliases are not compared: MLflow is away"
    scene.declare(1)
    status = environment_status(releases)
    assert "git declares version 1" in status.differences[0] and status.exit_code == 1
