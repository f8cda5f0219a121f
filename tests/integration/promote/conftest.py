"""An adapter with two judged versions in a real registry, and a home of its own for each test."""

from pathlib import Path

import pytest

from atelier.home import Home
from atelier.stores.registry import Registry
from tests.promoted import Adapter


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture(scope="session")
def shared(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return Adapter(registry, tmp_path_factory.mktemp("packages"))


@pytest.fixture
def cat(shared: Adapter, home: Home) -> Adapter:
    return shared.at(home)
