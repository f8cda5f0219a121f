"""Which version a call goes to: it moves when every live replica holds it; never a mixture."""

import asyncio
import time
from pathlib import Path

import pytest

from atelier.contract.gateway import Gateway, GatewayFolder, Routed
from atelier.data.names import hex_of
from atelier.data.release import Canary, ReleaseFolder
from atelier.files import write_atomic
from atelier.stores.environment import local
from services.gateway.releases import (
    AdapterLoading,
    ReleaseWatch,
    UnreleasedAdapter,
    parse_reference,
)
from tests.gateway import ONE, TWO, Stage, manifest_of

POLL = 0.02


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
def watch(stage: Stage) -> ReleaseWatch:
    return ReleaseWatch(local(stage.home), poll=POLL)


def serving(watch: ReleaseWatch) -> int:
    watch.look()
    return watch.resolve("thor-cat").version


def test_nothing_is_there_at_first(watch: ReleaseWatch) -> None:
    watch.look()
    with pytest.raises(UnreleasedAdapter, match="'thor-cat' is not served here; available: none"):
        watch.resolve("thor-cat")


def test_a_release_serves_once_its_replica_is_ready(stage: Stage, watch: ReleaseWatch) -> None:
    stage.release(ONE, 1)
    stage.load(ONE, 1, state="loading")
    watch.look()
    with pytest.raises(AdapterLoading, match="version 1 on replica one: not loaded yet") as caught:
        watch.resolve("thor-cat")
    assert caught.value.retry_after == 1.0
    stage.load(ONE, 1)
    assert serving(watch) == 1
    assert watch.resolve("thor-cat").digest == ONE.digest
    assert watch.resolve("thor-cat").manifest == ONE


def test_it_moves_only_when_all_replicas_hold_the_new_version(
    stage: Stage, watch: ReleaseWatch
) -> None:
    for replica in ("one", "two"):
        stage.load(ONE, 1, replica=replica)
    stage.release(ONE, 1)
    assert serving(watch) == 1
    stage.release(TWO, 2)
    assert serving(watch) == 1
    stage.load(TWO, 2, replica="one")
    assert serving(watch) == 1
    stage.load(TWO, 2, replica="two", state="loading")
    assert serving(watch) == 1
    stage.load(TWO, 2, replica="two")
    assert serving(watch) == 2


def test_a_version_that_fails_to_load_leaves_the_last_good_one(
    stage: Stage, watch: ReleaseWatch
) -> None:
    stage.load(ONE, 1)
    stage.release(ONE, 1)
    assert serving(watch) == 1
    stage.release(TWO, 2)
    stage.load(TWO, 2, state="failed")
    assert serving(watch) == 1
    assert "version 2 on replica one" in watch.routes["thor-cat"].trouble


def test_a_replica_that_is_gone_holds_nobody_up(stage: Stage, watch: ReleaseWatch) -> None:
    stage.load(ONE, 1, replica="dead")
    stage.report(age=60)
    dead = stage.held.pop("dead")
    stage.load(ONE, 1)
    stage.release(ONE, 1)
    assert dead and serving(watch) == 1
    assert [one.replica for one in watch.replicas] == ["one"]


def test_silence_of_every_replica_changes_nothing(stage: Stage, watch: ReleaseWatch) -> None:
    stage.load(ONE, 1)
    stage.release(ONE, 1)
    assert serving(watch) == 1
    stage.report(age=60)
    assert serving(watch) == 1
    assert watch.resolve("thor-cat", 1).version == 1


def test_a_joining_replica_does_not_turn_the_release_back(
    stage: Stage, watch: ReleaseWatch
) -> None:
    """It loads the older version first; for a moment that is the only one that all hold."""
    for version, manifest in ((1, ONE), (2, TWO)):
        stage.load(manifest, version)
        stage.release(manifest, version)
    assert serving(watch) == 2
    stage.load(ONE, 1, replica="two")
    assert serving(watch) == 2


def test_a_gateway_that_starts_within_a_roll_out_serves_what_served_before(stage: Stage) -> None:
    stage.load(ONE, 1)
    stage.release(ONE, 1)
    stage.release(TWO, 2)
    assert serving(ReleaseWatch(local(stage.home), poll=POLL)) == 1


def test_a_replica_that_still_loads_costs_no_call(stage: Stage, watch: ReleaseWatch) -> None:
    """As on every drain and scale-up: a new replica is live before it has loaded anything."""
    for version, manifest in ((1, ONE), (2, TWO)):
        stage.load(manifest, version)
    canary = Canary(version=1, digest=ONE.digest, percent=100)
    ReleaseFolder(stage.home.releases).put(stage.release(TWO, 2).with_canary(canary, "try it"))
    stage.load(TWO, 2, replica="new", state="loading")
    stage.held["newer"] = {}
    stage.report()
    for one in (watch, ReleaseWatch(local(stage.home), poll=POLL)):
        one.look()
        assert [one.resolve("thor-cat", version).version for version in (1, 2)] == [1, 2]
        assert one.resolve("thor-cat").version == 1  # the canary's whole share
        route = one.routes["thor-cat"]
        assert route.serving and route.serving.version == 2
        assert route.trouble.startswith("version 2 on replica new")


def test_a_gateway_that_starts_goes_where_the_others_go(stage: Stage, watch: ReleaseWatch) -> None:
    """The replicas alone do not say it: a roll-out looks like a replica that joins after it."""

    def started() -> int:
        late = ReleaseWatch(local(stage.home), poll=POLL, name="late")
        version = serving(late)
        late.close()
        return version

    for replica in ("one", "two"):
        stage.load(ONE, 1, replica=replica)
    stage.release(ONE, 1)
    assert serving(watch) == started() == 1
    stage.release(TWO, 2)
    stage.load(TWO, 2, replica="one")
    assert serving(watch) == started() == 1
    stage.held["two"] = {}  # its pod was replaced within the roll-out
    stage.report()
    assert serving(watch) == started() == 1
    stage.load(TWO, 2, replica="two")
    assert serving(watch) == started() == 2
    stage.held["two"] = {}  # and after it
    stage.load(ONE, 1, replica="two")
    assert serving(watch) == started() == 2
    watch.close()
    assert started() == 1  # alone, it takes what every replica holds
    stage.drop("thor-cat", 1, replica="two")
    assert started() == 2
    stage.drop("thor-cat", 1, replica="one")
    stage.drop("thor-cat", 2, replica="one")
    stage.load(TWO, 2, replica="two", state="loading")
    late = ReleaseWatch(local(stage.home), poll=POLL)
    late.look()
    with pytest.raises(AdapterLoading):
        late.resolve("thor-cat")


def test_but_not_what_was_withdrawn(stage: Stage, watch: ReleaseWatch) -> None:
    stage.load(ONE, 1)
    stage.load(TWO, 2)
    stage.release(ONE, 1)
    stage.release(TWO, 2)
    assert serving(watch) == 2
    folder = ReleaseFolder(stage.home.releases)
    folder.put(folder.list()["thor-cat"].rolled_back())
    assert serving(watch) == 1  # seconds, and nothing fetched
    stage.drop("thor-cat", 1)
    assert serving(watch) == 1  # the one that knows keeps to the good one
    late = ReleaseWatch(local(stage.home), poll=POLL)
    late.look()
    with pytest.raises(AdapterLoading):
        late.resolve("thor-cat")


def test_retiring_stops_at_once_and_names_the_others(stage: Stage, watch: ReleaseWatch) -> None:
    other = manifest_of(7, name="thumbs-up")
    for manifest, version in ((ONE, 1), (other, 7)):
        stage.load(manifest, version)
        stage.release(manifest, version)
    assert serving(watch) == 1
    ReleaseFolder(stage.home.releases).remove("thor-cat")
    watch.look()
    with pytest.raises(UnreleasedAdapter, match="available: thumbs-up"):
        watch.resolve("thor-cat")
    with pytest.raises(UnreleasedAdapter, match="did you mean thumbs-up"):
        watch.resolve("thumbs_up")


def test_a_pinned_version_is_served_while_it_is_at_hand(stage: Stage, watch: ReleaseWatch) -> None:
    stage.load(ONE, 1)
    stage.load(TWO, 2)
    stage.release(TWO, 2)
    assert serving(watch) == 2
    assert watch.resolve("thor-cat", 1).digest == ONE.digest
    message = r"version 3 is not ready on any replica; available: thor-cat@1, thor-cat@2"
    with pytest.raises(UnreleasedAdapter, match=message):
        watch.resolve("thor-cat", 3)


def test_a_canary_takes_its_share_of_the_keys(stage: Stage) -> None:
    stage.load(ONE, 1)
    stage.load(TWO, 2)
    folder = ReleaseFolder(stage.home.releases)
    release = stage.release(ONE, 1)
    watch = ReleaseWatch(local(stage.home), poll=POLL)
    keys, trying = [f"key-{number}" for number in range(1000)], set[str]()
    for percent in (10, 30, 100):
        canary = Canary(version=2, digest=TWO.digest, percent=percent)
        folder.put(release.with_canary(canary, "try it"))
        watch.look()
        found = {key: watch.resolve("thor-cat", caller=key).version for key in keys}
        assert found == {key: watch.resolve("thor-cat", caller=key).version for key in keys}
        now = {key for key, version in found.items() if version == 2}
        assert trying <= now  # a share that grows keeps the keys that it has
        assert len(now) == pytest.approx(10 * percent, abs=40)
        trying = now
    stage.held["new"] = {}
    stage.report()
    assert serving(watch) == 2  # one replica that holds it is enough
    stage.drop("thor-cat", 2)
    assert serving(watch) == 1  # a canary that nobody holds gets nothing


def test_a_changed_manifest_is_not_used(stage: Stage, watch: ReleaseWatch) -> None:
    stage.load(ONE, 1)
    file = stage.home.packages / hex_of(ONE.digest) / "manifest.json"
    write_atomic(file, ONE.model_copy(update={"trigger": "evil"}).canonical())
    stage.release(ONE, 1)
    watch.look()
    with pytest.raises(AdapterLoading, match="the package of version 1 cannot be read"):
        watch.resolve("thor-cat")


@pytest.mark.parametrize("field", ["base", "vae"])
def test_a_release_for_another_base_or_vae_is_said_to_be_one(
    stage: Stage, watch: ReleaseWatch, field: str
) -> None:
    stage.load(ONE, 1)
    other = "sha256:" + "cd" * 32
    release = stage.release(ONE, 1).model_copy(update={field: other})
    ReleaseFolder(stage.home.releases).put(release)
    watch.look()
    with pytest.raises(AdapterLoading, match=f"it needs base .*{other}.*, but the replicas run "):
        watch.resolve("thor-cat")


def test_a_broken_file_keeps_its_last_good_release_and_hurts_no_other(
    stage: Stage, watch: ReleaseWatch
) -> None:
    stage.load(ONE, 1)
    stage.release(ONE, 1)
    assert serving(watch) == 1
    write_atomic(stage.home.releases / "thor-cat.json", "{")
    write_atomic(stage.home.releases / "broken.json", "[]")
    assert serving(watch) == 1
    assert set(watch.routes) == {"thor-cat"}


def test_running_watch_follows_and_survives_a_bad_look(
    stage: Stage, watch: ReleaseWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.load(ONE, 1)
    stage.release(ONE, 1)
    look, looks = watch.look, []

    def bad_first() -> None:
        looks.append(1)
        if len(looks) == 1:
            raise OSError("the volume hiccups")
        look()

    monkeypatch.setattr(watch, "look", bad_first)

    async def follow() -> None:
        task = asyncio.create_task(watch.run())
        for _ in range(500):
            if watch.routes:
                break
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(follow())
    assert watch.resolve("thor-cat").version == 1


@pytest.mark.parametrize(
    ("text", "parsed"), [("cat", ("cat", None)), ("cat@3", ("cat", 3)), ("a-b@12", ("a-b", 12))]
)
def test_reference(text: str, parsed: tuple[str, int | None]) -> None:
    assert parse_reference(text) == parsed


@pytest.mark.parametrize("text", ["", "@1", "cat@", "cat@0", "cat@x", "cat@1@2", "cat@-1", "cat@²"])
def test_reference_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match="neither name nor name@version"):
        parse_reference(text)


def test_where_calls_go_is_told_for_as_long_as_it_runs(stage: Stage, watch: ReleaseWatch) -> None:
    folder = GatewayFolder(stage.home.gateways)
    folder.put(Gateway(gateway="killed", heartbeat=time.time() - 60))
    stage.load(ONE, 1)
    stage.release(ONE, 1)
    watch.look()
    (told,) = folder.list().values()
    assert told.live()
    assert told.routes["thor-cat"] == Routed(serving=ONE.digest)
    release = stage.release(TWO, 2)
    watch.look()
    assert folder.list()[told.gateway].routes["thor-cat"].serving == ONE.digest  # not loaded yet
    stage.load(TWO, 2)
    share = Canary(version=1, digest=ONE.digest, percent=10)
    ReleaseFolder(stage.home.releases).put(release.with_canary(share, "tried"))
    watch.look()
    route = folder.list()[told.gateway].routes["thor-cat"]
    assert route == Routed(serving=TWO.digest, canary=ONE.digest)
    watch.close()
    assert folder.list() == {}


def test_it_routes_on_where_that_cannot_be_told(stage: Stage, watch: ReleaseWatch) -> None:
    stage.load(ONE, 1)
    stage.release(ONE, 1)
    stage.home.gateways.write_text("a file where the folder should be")
    assert serving(watch) == 1
