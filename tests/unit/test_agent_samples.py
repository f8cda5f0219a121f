"""Samples reach a real registry, a fixed number of them, and no failure loses or blocks any."""

from pathlib import Path

import pytest

from atelier.contract.sample import attested_folder, key_of, slot_of
from atelier.errors import Unavailable
from atelier.stores.registry import Registry, VersionInfo
from services.agent.samples import LONGEST_WAIT, POLL, SampleUploader
from tests.promoted import package


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("registry")
    registry = Registry(f"sqlite:///{folder / 'mlflow.db'}")
    registry.register(package(folder / "one", "thor-cat", 1), run_id=None)
    return registry


@pytest.fixture
def info(registry: Registry) -> VersionInfo:
    return registry.version("thor-cat", 1)


def put(volume: Path, seed: int, version: int = 1, data: bytes = b"picture") -> Path:
    file = volume / f"samples/thor-cat/{version}/{key_of('a cat', seed)}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def test_samples_move_beside_their_version(
    tmp_path: Path, registry: Registry, info: VersionInfo
) -> None:
    files = [put(tmp_path, seed, data=bytes([seed])) for seed in range(3)]
    uploading = SampleUploader(tmp_path, lambda: registry, "staging")
    assert uploading.round() == 3
    assert not any(file.exists() for file in files)
    found = registry.fetch_attested(info, attested_folder("staging"), tmp_path / "into")
    slots = {slot_of(key_of("a cat", seed)): bytes([seed]) for seed in range(3)}
    assert {int(file.stem): file.read_bytes() for file in found} == slots
    assert registry.fetch_attested(info, attested_folder("production"), tmp_path / "other") == ()
    put(tmp_path, 1, data=b"newer")  # the same prompt and seed: the same slot
    assert uploading.round() == 1
    again = registry.fetch_attested(info, attested_folder("staging"), tmp_path / "again")
    assert len(again) == len(slots)
    assert any(file.read_bytes() == b"newer" for file in again)
    assert uploading.round() == 0


def test_samples_wait_for_an_unavailable_registry(tmp_path: Path, registry: Registry) -> None:
    away = True

    def opened() -> Registry:
        if away:
            raise Unavailable("MLflow does not answer")
        return registry

    file = put(tmp_path, 9)
    uploading = SampleUploader(tmp_path, opened, "staging")
    waits = []
    for _ in range(8):
        uploading.try_round()
        waits.append(uploading.wait)
    assert waits[:3] == [2 * POLL, 4 * POLL, 8 * POLL]
    assert waits[-1] == LONGEST_WAIT
    assert file.exists()
    away = False
    uploading.try_round()
    assert not file.exists()
    assert uploading.wait == POLL


def test_a_sample_of_an_unknown_version_is_dropped(tmp_path: Path, registry: Registry) -> None:
    bad, good = put(tmp_path, 1, version=7), put(tmp_path, 1)
    assert SampleUploader(tmp_path, lambda: registry, "staging").round() == 1
    assert not bad.exists() and not good.exists()


def test_without_samples_the_registry_is_not_opened(tmp_path: Path) -> None:
    def opened() -> Registry:
        raise AssertionError("not needed")

    assert SampleUploader(tmp_path, opened, "staging").round() == 0
