"""One root, found by the environment, holds everything."""

from pathlib import Path

import pytest

from atelier.home import Home


def test_default_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATELIER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert Home.find().root == tmp_path / ".atelier"
    monkeypatch.setenv("ATELIER_HOME", "elsewhere")
    assert Home.find().root == tmp_path / "elsewhere"


def test_layout(tmp_path: Path) -> None:
    home = Home(tmp_path)
    layout = {
        name: getattr(home, name).relative_to(tmp_path).as_posix()
        for name in (
            "releases", "replicas", "volume", "packages", "wanted", "loaded", "runs", "logs"
        )
    }  # fmt: skip
    assert layout == {
        "releases": "releases",
        "replicas": "replicas",
        "volume": "volume",
        "packages": "volume/packages",
        "wanted": "volume/wanted.json",
        "loaded": "volume/loaded.json",
        "runs": "runs",
        "logs": "logs",
    }


def test_services_of_ones_own_or_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    assert home.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert home.database_url == f"sqlite:///{tmp_path}/gateway.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert home.tracking_uri == "http://mlflow:5000"
