"""`make`: under which conditions it runs Python, and what it prints at the end of the tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from tests.conftest import slowest_files

ROOT = Path(__file__).resolve().parents[2]
SHOWS = "shown:\n\t@$(PY) -c 'import sys; print(sys.dont_write_bytecode)'"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_bytecode_is_kept_where_the_environment_forbids_it() -> None:
    """Without it every process compiles what it imports: 8 of 13 s of processor time for it all."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "MAKEFLAGS": ""}
    command = ["make", "--silent", "--eval", SHOWS, "shown", f"PY={sys.executable}"]
    shown = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"


def test_the_slowest_files_are_those_whose_tests_took_longest_in_all() -> None:
    def report(nodeid: str, when: Literal["setup", "call"], duration: float) -> pytest.TestReport:
        return pytest.TestReport(nodeid, ("", 0, ""), {}, "passed", None, when, duration=duration)

    reports = [
        report("tests/a.py::one", "setup", 1.5),
        report("tests/b.py::one[x::y]", "call", 2.0),
        report("tests/a.py::two", "call", 1.0),
        report("tests/c.py::one", "call", 0.5),
    ]
    warning = object()  # pytest keeps those beside the reports
    assert slowest_files([*reports, warning], 2) == [("tests/a.py", 2.5), ("tests/b.py", 2.0)]
