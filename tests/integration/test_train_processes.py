"""Two processes that train as one, started by accelerate and joined by gloo."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from atelier.adapter.package import Package
from pipelines.train import train
from tests.training import ROOT, file_of, last_step, make_studio, metrics, recipe

TRAIN = (sys.executable, "-m", "commands", "train")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, pictures, and a home of the module's own."""
    return make_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(autouse=True)
def _home(studio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module's home, which keeps the class pictures."""
    monkeypatch.setenv("ATELIER_HOME", str(studio / "home"))


def start(file: Path, output: Path) -> subprocess.Popen[bytes]:
    """Both processes, in a group with the one that started them."""
    command = [*TRAIN, str(file), "--output", str(output)]
    command += ["--resume", "--processes", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True)


def stopped(file: Path, output: Path, when: Callable[[], bool], number: int) -> int:
    """The exit code of a training that gets a signal as soon as something is so."""
    running = start(file, output)
    try:
        while not when():
            assert running.poll() is None, "ended before it could be stopped"
            time.sleep(0.02)
        if number == signal.SIGKILL:
            os.killpg(running.pid, number)  # a node that dies
        else:
            running.send_signal(number)  # a pod that is asked to go: only its first process hears
        return running.wait(120)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)


def weights(package: Package) -> np.ndarray:
    """All of an adapter's numbers in a row."""
    return np.concatenate(
        [np.r_[pair.A.ravel(), pair.B.ravel()] for pair in package.lora().values()]
    )


@pytest.fixture(scope="module")
def together(studio: Path) -> Path:
    """The run of two processes, in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATELIER_HOME", str(studio / "home"))
        assert start(file_of(studio, recipe(studio)), studio / "together").wait(500) == 0
    return studio / "together"


def test_two_processes_are_one_of_the_double_batch(
    studio: Path, together: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """With everything in it: accumulation, class pictures, several shapes, text encoders."""
    alone = train(recipe(studio, stages__0__train__batch=4), output=tmp_path / "alone")
    for ours, theirs in zip(metrics(together), metrics(tmp_path / "alone"), strict=True):
        for name in ("step", "loss", "loss_instance", "loss_prior", "grad_norm", "lr"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-4), (ours["step"], name)
    half = train(recipe(studio), output=tmp_path / "half")
    ours, double, single = map(
        weights, (Package.open(together / "package"), alone.package, half.package)
    )
    apart, otherwise = np.linalg.norm(ours - double), np.linalg.norm(single - double)
    record_property("apart", f"{apart:.2e}, a single process of the same batch {otherwise:.2e}")
    assert apart < 1e-2 * otherwise


def test_stopped_and_killed_they_end_bit_for_bit_where_the_unbroken_run_ends(
    studio: Path, together: Path, tmp_path: Path
) -> None:
    file, output = file_of(studio, recipe(studio)), tmp_path / "broken"
    assert stopped(file, output, lambda: last_step(output) >= 1, signal.SIGTERM) == 143
    (left,) = (output / "checkpoints").iterdir()
    reached = int(left.name.removeprefix("step-"))
    assert 1 <= reached < 10
    passed = reached // 4 * 4 + 4  # the next checkpoint but one is not written yet

    def has_passed() -> bool:
        return (output / "checkpoints" / f"step-{passed:08d}").exists()

    if passed < 8:
        assert stopped(file, output, has_passed, signal.SIGKILL) == -signal.SIGKILL
    assert start(file, output).wait(500) == 0
    whole, broken = Package.open(together / "package"), Package.open(output / "package")
    assert broken.digest == whole.digest


def test_another_number_of_processes_is_another_training(studio: Path, together: Path) -> None:
    command = [*TRAIN, str(file_of(studio, recipe(studio)))]
    command += ["--output", str(together), "--resume"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "processes was 2, is now 1" in ended.stderr


def test_what_ends_the_processes_is_the_exit_code(studio: Path, together: Path) -> None:
    """A Job's policy decides by it; a launcher of its own would say 1, whatever it was."""
    command = [*TRAIN, str(file_of(studio, recipe(studio))), "--output", str(together)]
    command += ["--processes", "2"]  # and no --resume, which each of them refuses
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "already contains a run" in ended.stderr
