"""The results of the cluster tests as a table for docs/."""

import os
import platform
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from pytest import TestReport

HEAD = """# Results of the cluster tests

Written by `make {target} RESULTS=FILE` on {when}. Machine: {machine}.{took}
[tests/cluster](../tests/cluster/README.md) describes the tests. The same machine ran every node,
client and trainer, which makes the times longer.

| test | outcome | seconds | measured |
| --- | --- | --- | --- |
"""


def document(reports: Iterable[tuple[str, TestReport]]) -> str:
    """Markdown with a row for each test; `reports` are outcomes with their report, set-ups too."""
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    target = os.environ.get("ATELIER_TARGET") or "e2e"  # make tells what it was asked for
    machine = f"{os.cpu_count()} cores, {platform.machine()}, no GPU"
    head = HEAD.format(target=target, when=when, machine=machine, took=_took())
    return head + "\n".join(_row(outcome, one) for outcome, one in reports) + "\n"


def _took() -> str:
    """The time since ATELIER_BEGAN (seconds since the epoch), which make sets when it starts."""
    began = os.environ.get("ATELIER_BEGAN")
    if not began:
        return ""
    return f" Duration from the start of make: {(time.time() - float(began)) / 60:.0f} minutes."


def _row(outcome: str, report: TestReport) -> str:
    name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
    measured = "; ".join(f"{what}: {value}" for what, value in report.user_properties)
    if outcome == "skipped":
        measured = _reason(report.longrepr)
    return f"| {name} | {outcome} | {report.duration:.0f} | {measured} |"


def _reason(longrepr: object) -> str:
    found = longrepr[2] if isinstance(longrepr, tuple) else ""
    return str(found).removeprefix("Skipped: ")
