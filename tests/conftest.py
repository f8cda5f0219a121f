"""Every test works in a home of its own, away from the user's, and never on the network."""

import os
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from tests.integration.checkout import DemoRun


# The hub's client reads these when it is imported, which happens while tests are collected.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


# No test is a matter of time, on no machine.
hypothesis.settings.register_profile(
    "atelier", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("atelier")

# A shell's job in the background is started to ignore Ctrl-C, and so would be what tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# What there can be only one of at a time, or is too dear to be made twice, and which files use it.
# They run in one worker; else a file's tests do.
SHARED = {
    "demo_run": ("test_demo.py", "test_readme.py"),
    "learnt": ("test_bad_recipes.py", "test_character.py"),
    "stack": (
        "test_demo_terminal.py",
        "test_gateway_triton.py",
        "test_serving.py",
        "test_serving_release.py",
        "test_serving_smoke.py",
        "test_serving_v2.py",
        "test_triton.py",
    ),
    "database_url": (
        "test_gateway_database.py",
        "test_gateway_http.py",
        "test_gateway_workers.py",
    ),
    "released": (
        "test_push.py",
        "test_canary.py",
        "test_faults.py",
        "test_release.py",
        "test_rollout.py",
        "test_soak.py",
    ),
}


def group_of(path: str) -> str:
    """The tests that run in one worker, by the path of one's file."""
    name = path.rpartition("/")[2]
    return next((group for group, files in SHARED.items() if name in files), path)


class _Groups(LoadScopeScheduling):  # type: ignore[misc]
    """xdist's own groups are lost where pytest's node ids cannot be written to, as in 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Which worker runs what."""
    return _Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file that uses what is shared, and is not named here, would make it twice."""
    for item in items:
        for shared in SHARED.keys() & set(getattr(item, "fixturenames", ())):
            if group_of(str(item.path)) != shared:
                raise pytest.UsageError(f"{item.path}: uses {shared}; name it in {__file__}")


def slowest_files(reports: Iterable[object], count: int = 10) -> list[tuple[str, float]]:
    """Test files and the seconds that their tests took with set-up and teardown, slowest first."""
    seconds = Counter[str]()
    for report in reports:
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid.partition("::")[0]] += report.duration
    return seconds.most_common(count)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the slowest files, and what tests measured or drew at random (`record_property`)."""
    slowest = slowest_files(one for some in terminalreporter.stats.values() for one in some)
    if len(slowest) > 1:
        terminalreporter.write_sep("=", f"slowest {len(slowest)} files")
        for file, seconds in slowest:
            terminalreporter.write_line(f"{seconds:.2f}s {file}")
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
