"""One platform for all tests of this folder, and two adapters of two versions each."""

import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.cluster import results
from tests.cluster.conftest import LOCAL, NAMED
from tests.cluster.e2e.platform import ROOT, Platform
from tests.cluster.e2e.traffic import Oracle
from tests.cluster.e2e.trainings import Trainings
from tests.cluster.e2e.volumes import Volumes
from tests.cluster.images import build
from tests.tiny import tiny_adapter

BASE = ROOT / "models/miniature"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of what was shown, where ATELIER_RESULTS names a file for it."""
    if file := os.environ.get("ATELIER_RESULTS"):
        found = [
            (outcome, one)
            for outcome in ("passed", "failed", "error", "skipped")
            for one in terminalreporter.getreports(outcome)
        ]
        (ROOT / file).write_text(results.document(found, results.machine()))


@pytest.fixture(scope="session")
def shipped(registry: str) -> Mapping[str, str]:
    """Our images in the cluster's registry, by digest; ATELIER_IMAGES leaves the build out."""
    if (why := build.missing()) is not None:
        pytest.skip(f"images: {why}")
    if not os.environ.get("ATELIER_IMAGES"):
        build.build()
    return build.push(registry)


@pytest.fixture(scope="session")
def platform(kubeconfig: Path, shipped: Mapping[str, str]) -> Iterator[Platform]:
    """Installed once; ATELIER_E2E names a namespace that has it already, and keeps it."""
    named = os.environ.get("ATELIER_E2E")
    volumes = Volumes(None if NAMED else LOCAL.home / "volumes")
    made = Platform(kubeconfig, named or f"e2e-{secrets.token_hex(3)}", BASE, shipped, volumes)
    made.install()
    yield made
    if not named:
        made.remove()


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
def released(platform: Platform, oracle: Oracle) -> Platform:
    """Both adapters serve their first version."""
    for name in ("thor", "loki"):
        platform.release(name, 1)
    return platform


@pytest.fixture(scope="session")
def trainings(platform: Platform, shipped: Mapping[str, str]) -> Iterator[Trainings]:
    """A namespace that trains into the platform's MLflow."""
    made = Trainings(platform, shipped["atelier-train"], "checkpoints")
    made.prepare()
    yield made
    made.remove()
