"""Releases of a namespace and of a folder: a look reads what has changed and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atelier.data.release import Pin, Release, ReleaseFolder
from atelier.errors import ReleaseError
from atelier.platform.api import CONFIG_MAPS, Object
from atelier.platform.keeping import SPARE_LINES, KeptObjects
from atelier.platform.release_configmaps import PREFIX, ClusterReleases
from atelier.stores.environment import FEW, LocalReleases
from tests.gateway import BASE, ONE, TWO
from tests.leases import Cluster, Followed

COUNT = 1000


def release(number: int, version: int = 1) -> Release:
    digest = f"sha256:{version:032x}{number:032x}"
    return Release(adapter=f"adapter-{number}", base=BASE, version=version, digest=digest)


def config_map(one: Release, manifests: str = "{}") -> Object:
    metadata = {"name": f"{PREFIX}{one.adapter}", "labels": {"atelier.dev/adapter": one.adapter}}
    data = {"release.json": one.model_dump_json(), "manifests.json": manifests}
    return {"metadata": metadata, "data": data}


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The releases that are parsed."""
    found: list[str] = []
    real = Release.model_validate_json

    def counted(data: Any, **more: Any) -> Release:
        made = real(data, **more)
        found.append(made.adapter)
        return made

    monkeypatch.setattr(Release, "model_validate_json", counted)
    return found


def test_a_config_map_is_parsed_when_it_changes(parsed: list[str]) -> None:
    cluster: Any = Cluster()
    for number in range(COUNT):
        cluster.apply(CONFIG_MAPS, config_map(release(number)))
    releases = ClusterReleases(Followed(cluster), cluster)
    first = releases.read()
    assert len(first.releases) == len(parsed) == COUNT
    parsed.clear()
    assert releases.read() is first and parsed == []
    cluster.apply(CONFIG_MAPS, config_map(release(7, version=2)))
    second = releases.read()
    assert parsed == ["adapter-7"] and second.releases["adapter-7"].version == 2
    others = [name for name in first.releases if name != "adapter-7"]
    assert all(second.releases[name] is first.releases[name] for name in others)
    cluster.delete(CONFIG_MAPS, f"{PREFIX}adapter-7")
    assert len(releases.read().releases) == COUNT - 1 and parsed == ["adapter-7"]


def test_one_release_is_asked_for_by_its_name(parsed: list[str]) -> None:
    cluster: Any = Cluster()
    for number in range(3):
        cluster.apply(CONFIG_MAPS, config_map(release(number)))
    releases = ClusterReleases(Followed(cluster), cluster)
    found = releases.find("adapter-1")
    assert found == release(1).model_copy(update={"since": found.since if found else None})
    assert parsed == ["adapter-1"] and cluster.asked == [f"{PREFIX}adapter-1"]
    assert releases.find("adapter-9") is None
    cluster.apply(CONFIG_MAPS, {**config_map(release(1)), "data": {"release.json": "{"}})
    with pytest.raises(ReleaseError, match="ConfigMap release-adapter-1: not a release"):
        releases.find("adapter-1")


def test_a_manifest_is_read_when_it_is_asked_for() -> None:
    cluster: Any = Cluster()
    pin = Pin(version=2, digest=TWO.digest)
    first = Release(adapter="thor-cat", base=BASE, version=1, digest=ONE.digest)
    texts = {ONE.digest: ONE.canonical().decode(), TWO.digest: "{}"}
    cluster.apply(CONFIG_MAPS, config_map(first.with_version(pin, "promoted"), json.dumps(texts)))
    releases = ClusterReleases(Followed(cluster), cluster)
    releases.read()
    assert releases.manifest(ONE.digest) == ONE
    with pytest.raises(
        ReleaseError, match=r"release-thor-cat, manifest .*: its digest is different"
    ):
        releases.manifest(TWO.digest)
    assert releases.manifest("sha256:" + "9" * 64) is None
    cluster.delete(CONFIG_MAPS, f"{PREFIX}thor-cat")
    releases.read()
    assert releases.manifest(ONE.digest) is None


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The releases' files that are looked at, whichever way."""
    found: list[str] = []
    stat, read = Path.stat, Path.read_bytes

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def look(path: Path, *given: Any, **more: Any) -> Any:
            if path.suffix == ".json":
                found.append(path.stem)
            return real(path, *given, **more)

        return look

    monkeypatch.setattr(Path, "stat", counted(stat))
    monkeypatch.setattr(Path, "read_bytes", counted(read))
    return found


def test_a_release_file_is_read_when_it_changes(
    tmp_path: Path, looked_at: list[str], parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ReleaseFolder(tmp_path)
    for number in range(FEW + 50):
        (tmp_path / f"adapter-{number}.json").write_text(release(number).model_dump_json())
    releases = LocalReleases(folder)
    first = releases.read()
    assert len(first.releases) == FEW + 50
    looked_at.clear()
    parsed.clear()
    monkeypatch.setattr("atelier.stores.environment.SWEEP_SECONDS", float("inf"))
    assert releases.read() is first and looked_at == []
    folder.put(release(7, version=2))
    second = releases.read()
    assert parsed == ["adapter-7"] and second.releases["adapter-7"].version == 2
    assert second.releases["adapter-8"] is first.releases["adapter-8"]
    folder.remove("adapter-7")
    assert "adapter-7" not in releases.read().releases
    monkeypatch.undo()
    monkeypatch.setattr("atelier.stores.environment.SWEEP_SECONDS", 0.0)
    (tmp_path / "adapter-8.json").write_text("{")  # in place: the folder does not change
    assert set(releases.read().unreadable) == {"adapter-8"}


def objects(count: int, version: int = 1) -> dict[str, Object]:
    made = (config_map(release(number, version)) for number in range(count))
    return {one["metadata"]["name"]: one for one in made}


def test_what_is_kept_costs_one_line_a_change(tmp_path: Path) -> None:
    file = tmp_path / "kept" / "releases.json"
    kept, known = KeptObjects(file), objects(COUNT)
    kept.save(known)
    size = file.stat().st_size
    changed = {**known, f"{PREFIX}adapter-7": config_map(release(7, 2))}
    del changed[f"{PREFIX}adapter-8"]
    kept.save(changed)
    assert file.stat().st_size - size < 2 * size / COUNT
    assert len(file.read_bytes().splitlines()) == COUNT + 2
    restored = KeptObjects(file).restore()
    assert restored is not None and restored.objects == changed
    kept.save(dict(changed))
    assert len(file.read_bytes().splitlines()) == COUNT + 2  # nothing new, nothing written


def test_what_is_kept_does_not_grow_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "releases.json"
    kept, known = KeptObjects(file), objects(2)
    for version in range(1, 3 * SPARE_LINES):
        known = {**known, f"{PREFIX}adapter-1": config_map(release(1, version))}
        kept.save(known)
    assert len(file.read_bytes().splitlines()) <= 2 * len(known) + SPARE_LINES
    restored = KeptObjects(file).restore()
    assert restored is not None and restored.objects == known


def test_a_line_cut_short_costs_its_own_object_and_is_not_appended_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "releases.json"
    known = objects(3)
    KeptObjects(file).save(known)
    with file.open("ab") as cut:
        cut.write(b'["release-adapter-1",{"metadata"')
    kept = KeptObjects(file)
    restored = kept.restore()
    assert restored is not None and restored.objects == known
    assert "a line cannot be read" in caplog.text
    kept.save({**known, f"{PREFIX}adapter-1": config_map(release(1, 2))})
    again = KeptObjects(file).restore()
    assert again is not None and len(again.objects) == 3
    assert 'version":2' in again.objects[f"{PREFIX}adapter-1"]["data"]["release.json"]


def test_a_file_that_holds_nothing_of_use_is_as_good_as_none(tmp_path: Path) -> None:
    file = tmp_path / "releases.json"
    assert KeptObjects(file).restore() is None
    file.write_text('{"release-a": {"metadata": {"name": "release-a"}}}')  # as once it was
    assert KeptObjects(file).restore() is None
    KeptObjects(file).save({})
    restored = KeptObjects(file).restore()
    assert restored is not None and restored.objects == {}
