"""One platform for all tests of this folder, and two adapters of two versions each."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from atelier.files import locked, write_atomic
from tests.cluster.conftest import LOCAL, NAMED, RUN
from tests.cluster.e2e.platform import ROOT, Platform
from tests.cluster.e2e.traffic import Oracle
from tests.cluster.e2e.trainings import Trainings
from tests.cluster.e2e.volumes import Volumes
from tests.cluster.images import build
from tests.cluster.local.kubectl import push_chart
from tests.tiny import tiny_adapter

BASE = ROOT / "models/miniature"
ORDER = (  # of those that share the platform: what breaks things, late
    "test_release",
    "test_canary",
    "test_rollout",
    "test_push",
    "test_faults",
    "test_soak",
)
THEN = ("test_training", "test_images", "test_local_cluster", "test_cluster", "test_pools")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker begins with the platform, whose installation nothing slows down. The other one
    waits for it and trains, which takes longest, and then tests the images, and a cluster of its
    own: meanwhile the first one may have this one to itself. What has to have that comes last, when
    it waits for nobody."""

    def place(item: pytest.Item) -> tuple[int, int]:
        stem = item.path.stem
        if stem in ORDER:
            return 0, ORDER.index(stem)
        return 1, THEN.index(stem) if stem in THEN else len(THEN)

    items.sort(key=place)


Once = Callable[[str, Callable[[], Any]], Any]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """What a step answers (as JSON), done by the first worker that asks; others wait for it."""
    folder = tmp_path_factory.getbasetemp()  # of this run alone
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def done(name: str, step: Callable[[], Any]) -> Any:
        file = folder / f"{name}.json"
        with locked(folder / name):
            if not file.exists():
                write_atomic(file, json.dumps(step()))
            return json.loads(file.read_text())

    return done


@pytest.fixture(scope="session")
def shipped(registry: str, once: Once) -> Mapping[str, str]:
    """Our images in the cluster's registry, by digest; ATELIER_IMAGES leaves the build out."""
    if (why := build.missing()) is not None:
        pytest.skip(f"images: {why}")

    def ship() -> dict[str, str]:
        if not os.environ.get("ATELIER_IMAGES"):
            build.build()
        return build.push(registry)

    shipped: Mapping[str, str] = once("images", ship)
    return shipped


@pytest.fixture(scope="session")
def charts(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Our charts in the cluster's registry, by digest."""
    folder = tmp_path_factory.mktemp("charts")
    return {
        name: push_chart(ROOT / "charts" / name, registry, folder)
        for name in ("atelier", "adapter")
    }


@pytest.fixture(scope="session")
def platform(
    kubeconfig: Path,
    shipped: Mapping[str, str],
    charts: Mapping[str, str],
    once: Once,
) -> Platform:
    """Installed once for all workers."""
    volumes = Volumes(None if NAMED else LOCAL.home / "volumes")
    made = Platform(kubeconfig, os.environ[RUN], BASE, shipped, charts, volumes)

    def install() -> dict[str, Any]:
        made.install()
        return {"key": made.key, "values": made.values}

    there = once("platform", install)
    made.key, made.values = there["key"], there["values"]
    return made


@pytest.fixture(scope="session")
def adapters(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Packages that are in the registry: thor and loki, versions 1 and 2 of each."""
    folder = tmp_path_factory.mktemp("packages")
    made = {
        name: [
            tiny_adapter(BASE, folder / f"{name}-{version}", name=name, seed=10 * at + version)
            for version in (1, 2)
        ]
        for at, name in enumerate(("thor", "loki"))
    }
    for folders in made.values():
        for one in folders:
            platform.register(one)
    return made


@pytest.fixture(scope="session")
def oracle(platform: Platform, adapters: dict[str, list[Path]]) -> Iterator[Oracle]:
    made = Oracle(platform, adapters)
    yield made
    made.close()


@pytest.fixture(scope="session")
def first(platform: Platform, oracle: Oracle) -> Platform:
    """Both adapters serve their first version."""
    for name in ("thor", "loki"):
        platform.release(name, 1)
    return platform


@pytest.fixture
def released(first: Platform) -> Platform:
    """The same, once nothing starts or ends any more of what an earlier test left."""
    first.whole()
    return first


@pytest.fixture(scope="session")
def trainings(platform: Platform, shipped: Mapping[str, str], once: Once) -> Trainings:
    """A namespace that trains into the platform's MLflow."""
    made = Trainings(platform, shipped["atelier-train"], "checkpoints")
    once("trainings", made.prepare)
    return made
