"""Every test works in a home of its own, away from the user's, and never on the network."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.checkout import DemoRun


# The hub's client reads these when it is imported, which happens while tests are collected.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


# Fixtures of which there can be only one at a time, or that are too dear to be made twice.
SHARED = {
    "demo_run": "demo",
    "stack": "stack",
    "postgres": "postgres",
    "database_url": "postgres",
}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests, and all tests of a shared fixture, run in one worker."""
    for item in items:
        needs = getattr(item, "fixturenames", ())
        group = next((SHARED[name] for name in SHARED if name in needs), str(item.path))
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured or drew at random (`record_property`)."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                terminalreporter.write_line(f"{report.nodeid}: {name} {value}")


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh ATELIER_HOME, no tracking server of the user's, no hub, no cloud of W&B."""
    monkeypatch.setenv("ATELIER_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "ATELIER_DATABASE_URL", "ATELIER_TRITON_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> "DemoRun":
    """The demo on a tiny base, once for all tests that look at what it did or use what it left."""
    from tests.integration.checkout import make_checkout, run_demo  # torch: not for unit tests

    return run_demo(make_checkout(tmp_path_factory.mktemp("checkout")))
