"""The targets of the Makefile: under which conditions they run Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOWS = "shown:\n\t@$(PY) -c 'import sys; print(sys.dont_write_bytecode)'"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_bytecode_is_kept_where_the_environment_forbids_it() -> None:
    """Without it every process compiles what it imports: 8 of 13 s of processor time for it all."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "MAKEFLAGS": ""}
    command = ["make", "--silent", "--eval", SHOWS, "shown", f"PY={sys.executable}"]
    shown = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"
