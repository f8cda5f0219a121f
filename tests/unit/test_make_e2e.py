"""`make e2e` with a program in Python's place: what it starts, and that nothing of it is left."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Tells what it is called with, and takes as long as the real one where a test has it wait.
PROGRAM = """#!/bin/bash
echo "$2 $3 KUBECONFIG=$KUBECONFIG ATELIER_REGISTRY=$ATELIER_REGISTRY" >>"$TOLD"
case "$2 $3" in
  "tests.cluster.images ahead") echo $$ >"$TOLD.ahead"; exec sleep "$AHEAD" ;;
  "tests.cluster.local up") until [ -s "$TOLD.ahead" ]; do sleep 0.01; done
    touch "$TOLD.up"; sleep "$UP_SECONDS"; exit "$UP" ;;
esac
"""


@pytest.fixture
def start(tmp_path):
    """`make e2e`, with files that it has told what it did to; a group of processes of its own."""
    if shutil.which("make") is None:
        pytest.skip("no make")
    program = tmp_path / "python"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    told = {"TOLD": str(tmp_path / "told"), "AHEAD": "60", "UP": "0", "UP_SECONDS": "0"}
    other = {"KUBECONFIG": "/another", "ATELIER_REGISTRY": "another:5000"}

    def started(**how: str) -> subprocess.Popen[bytes]:
        words = ["make", "e2e", f"PY={program}", "-o", "cluster-tools", "-o", "images"]
        env = {**os.environ, **told, **other, **how, "MAKEFLAGS": ""}
        return subprocess.Popen(
            words, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, start_new_session=True
        )

    return started


def called(tmp_path: Path) -> list[str]:
    return [line.split(" KUBECONFIG")[0] for line in (tmp_path / "told").read_text().splitlines()]


def pulls_ahead(tmp_path: Path) -> bool:
    """Whether the pull that was begun beside the cluster still runs."""
    return Path("/proc", (tmp_path / "told.ahead").read_text().strip()).exists()


def test_the_tests_ask_the_cluster_that_is_brought_up(start, tmp_path):
    assert start(AHEAD="0").wait(30) == 0
    told = (tmp_path / "told").read_text().splitlines()
    assert [line for line in told if line.startswith("pytest")] == [
        "pytest -n KUBECONFIG= ATELIER_REGISTRY="
    ]
    assert called(tmp_path)[-1] == "tests.cluster.local down"


def test_nothing_is_left_of_a_cluster_that_did_not_come_up(start, tmp_path):
    assert start(UP="1").wait(30) == 2
    assert not pulls_ahead(tmp_path)
    assert called(tmp_path)[-1] == "tests.cluster.local down"
    assert "pytest -n" not in called(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_one_that_was_interrupted(start, tmp_path, number):
    make = start(UP_SECONDS="60")
    deadline = time.monotonic() + 30
    while not (tmp_path / "told.up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(make.pid, number)
    assert make.wait(30) != 0
    while called(tmp_path)[-1] != "tests.cluster.local down" or pulls_ahead(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
