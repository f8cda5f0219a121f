"""What the cluster tier showed, as a table for docs/."""

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime

from pytest import TestReport

HEAD = """# What was shown on a cluster

Written by `make {target} RESULTS=FILE`, {when}, on {machine}; the tests are in
[tests/cluster](../tests/cluster/README.md). Times are of a machine that also runs every node,
client and trainer of the test.

| test | outcome | seconds | measured |
| --- | --- | --- | --- |
"""


def document(reports: Iterable[tuple[str, TestReport]], machine: str) -> str:
    """Markdown with a row for each test; `reports` are outcomes with their report, set-ups too."""
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    rows = [_row(outcome, one) for outcome, one in reports]
    target = "e2e-soak" if os.environ.get("ATELIER_SOAK") else "e2e"
    return HEAD.format(target=target, when=when, machine=machine) + "\n".join(rows) + "\n"


def machine() -> str:
    """What it ran on, without names of hosts."""
    return f"{os.cpu_count()} cores, {platform.machine()}, no GPU"


def _row(outcome: str, report: TestReport) -> str:
    name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
    measured = "; ".join(f"{what}: {value}" for what, value in report.user_properties)
    if outcome == "skipped":
        measured = _reason(report.longrepr)
    return f"| {name} | {outcome} | {report.duration:.0f} | {measured} |"


def _reason(longrepr: object) -> str:
    found = longrepr[2] if isinstance(longrepr, tuple) else ""
    return str(found).removeprefix("Skipped: ")
