"""`make e2e` with a program in Python's place: what it starts, and that nothing of it is left."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.triton.process import alive

ROOT = Path(__file__).resolve().parents[2]
# Records each call, and takes as long as the test asks. A long step turns into `sleep`, so that the
# signal meets one process and never falls between two commands of a script.
PROGRAM = """#!/bin/bash
echo "$2 $3 KUBECONFIG=$KUBECONFIG ATELIER_REGISTRY=$ATELIER_REGISTRY" >>"$TOLD"
case "$2 $3" in
  "tests.cluster.images ahead") echo $$ >"$TOLD.ahead"; exec sleep "$AHEAD" ;;
  "tests.cluster.local up") until [ -s "$TOLD.ahead" ]; do sleep 0.01; done
    echo $$ >"$TOLD.up"; [ "$UP_SECONDS" = 0 ] || exec sleep "$UP_SECONDS"; exit "$UP" ;;
  "tests.cluster.local down") touch "$TOLD.down"; sleep "$DOWN_SECONDS"; touch "$TOLD.ended" ;;
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
    told = {"TOLD": str(tmp_path / "told"), "AHEAD": "60", "UP": "0"}
    told |= {"UP_SECONDS": "0", "DOWN_SECONDS": "0"}
    other = {"KUBECONFIG": "/another", "ATELIER_REGISTRY": "another:5000"}

    def started(**how: str) -> subprocess.Popen[bytes]:
        words = ["make", "e2e", f"PY={program}", "-o", "cluster-tools", "-o", "images"]
        env = {**os.environ, **told, **other, **how, "MAKEFLAGS": ""}
        return subprocess.Popen(
            words,
            cwd=ROOT,
            env=env,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=heed_signals,  # noqa: PLW1509 -- it sets signals only
        )

    return started


def heed_signals() -> None:
    """A shell cannot trap what it inherits as ignored: SIGHUP under nohup, SIGINT behind a `&`."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def called(tmp_path: Path) -> list[str]:
    return [line.split(" KUBECONFIG")[0] for line in (tmp_path / "told").read_text().splitlines()]


def program(tmp_path: Path, step: str) -> str:
    """The program that a step which wrote its process down runs now; empty where it has ended."""
    try:
        pid = int((tmp_path / f"told.{step}").read_text())
        return Path(f"/proc/{pid}/comm").read_text().strip() if alive(pid) else ""
    except (OSError, ValueError):
        return ""


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def comes_up(tmp_path: Path) -> bool:
    """Whether the cluster comes up, and the pull beside it runs."""
    return program(tmp_path, "up") == program(tmp_path, "ahead") == "sleep"


def is_gone(tmp_path: Path) -> bool:
    """Whether the cluster was taken down, last of all, and no step runs any more."""
    if program(tmp_path, "up") or program(tmp_path, "ahead"):
        return False
    return (tmp_path / "told.ended").exists() and called(tmp_path)[-1] == "tests.cluster.local down"


def test_the_tests_ask_the_cluster_that_is_brought_up(start, tmp_path):
    assert start(AHEAD="0").wait(30) == 0
    told = (tmp_path / "told").read_text().splitlines()
    assert [line for line in told if line.startswith("pytest")] == [
        "pytest -n KUBECONFIG= ATELIER_REGISTRY="
    ]
    assert called(tmp_path)[-1] == "tests.cluster.local down"


def test_nothing_is_left_of_a_cluster_that_did_not_come_up(start, tmp_path):
    assert start(UP="1").wait(30) == 2
    assert not program(tmp_path, "ahead")
    assert called(tmp_path)[-1] == "tests.cluster.local down"
    assert "pytest -n" not in called(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_of_one_that_was_interrupted(start, tmp_path, number):
    make = start(UP_SECONDS="60")
    wait_until(lambda: comes_up(tmp_path))
    os.killpg(make.pid, number)
    assert make.wait(30) != 0
    wait_until(lambda: is_gone(tmp_path))


def test_a_signal_to_make_alone_ends_the_step_before_the_cluster_is_taken_down(start, tmp_path):
    """Else the one brings up what the other removes."""
    make = start(UP_SECONDS="60")
    wait_until(lambda: comes_up(tmp_path))
    make.terminate()
    wait_until((tmp_path / "told.down").exists)
    assert not program(tmp_path, "up") and not program(tmp_path, "ahead")
    assert make.wait(30) != 0
    wait_until(lambda: is_gone(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_stop_the_taking_down(start, tmp_path, number):
    make = start(UP_SECONDS="60", DOWN_SECONDS="0.3")
    wait_until(lambda: comes_up(tmp_path))
    os.killpg(make.pid, number)
    wait_until((tmp_path / "told.down").exists)
    os.killpg(make.pid, number)
    wait_until(lambda: is_gone(tmp_path))
    make.wait(30)
