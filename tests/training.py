"""What tests of training share: a studio to train in, a recipe with everything in it, saboteurs."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from atelier.data.recipe import Recipe
from atelier.errors import Interrupted, Unavailable
from atelier.stores.tracking import Tracking
from pipelines.train import TrainResult, train
from pipelines.train.loop import StepReport
from pipelines.train.progress import Silence
from tests.tiny import tiny_base

ROOT = Path(__file__).parents[1]
STEPS = 10

# cuBLAS reads it once, and on a machine with a GPU other tests may come before a training.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# Kills its own process in the middle of things: at the n-th backward pass, or at the first flush of
# a file whose path holds a text.
KILLER = """
import os, runpy, signal, sys
import torch

passes, text = int(sys.argv.pop(1)), sys.argv.pop(1)
flush, backward = os.fsync, torch.Tensor.backward

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def fsync(descriptor):
    if text in os.readlink(f"/proc/self/fd/{descriptor}"):
        die()
    flush(descriptor)

def counted(*arguments, **named):
    global passes
    passes -= 1
    return die() if passes == 0 else backward(*arguments, **named)

os.fsync, torch.Tensor.backward = fsync, counted
sys.argv.insert(1, "train")
runpy.run_module("commands", run_name="__main__", alter_sys=True)
"""

TOLD: dict[str, Any] = {
    "tracking": {"mlflow": True, "wandb": {"project": "atelier", "mode": "offline"}},
    "validation": {"prompts": ["{trigger} on the beach"], "every": 5, "steps": 2},
}


def make_studio(folder: Path) -> Path:
    """A base, five captioned pictures of different shapes, and a home of the module's own."""
    tiny_base(folder / "base")
    (folder / "images").mkdir()
    lines = []
    for index in range(5):
        noise = np.random.default_rng(index).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        size = (96, 96) if index < 3 else (128, 80)
        Image.fromarray(noise).resize(size).save(folder / f"images/{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "text": "on the beach"}))
    (folder / "images/metadata.jsonl").write_text("\n".join(lines[:4]))
    return folder


def recipe(studio: Path, **changes: Any) -> Recipe:
    """Every feature at once: text encoders, prior, accumulation, shapes, alpha ≠ rank."""
    document: dict[str, Any] = {
        "adapter": "tiny-cat",
        "base": {"model": str(studio / "base")},
        "trigger": "sks cat",
        "class": "cat",
        "styles": {"night": "{prompt} at night"},
        "stages": [
            {
                "method": "dreambooth",
                "dataset": {
                    "path": "images", "resolution": 64, "crop": "none", "captions": "text",
                },
                "prompt": "a photo of {trigger} {caption}",
                "prior": {"prompt": "a photo of a cat", "images": 3},
                "lora": {
                    "rank": 4,
                    "alpha": 2,
                    "targets": ["attn", "ff", "proj", "text_encoder", "text_encoder_2"],
                },
                "train": {
                    "steps": STEPS, "batch": 2, "accumulate": 2, "lr": 0.01, "lr_ratio": 2.0,
                    "snr_gamma": 5.0, "schedule": "cosine", "warmup": 2,
                },
            }
        ],
        "checkpoint": {"every": 4, "keep": 2},
        "tracking": {"mlflow": False},
    }  # fmt: skip
    for path, value in changes.items():
        *parents, last = path.split("__")
        place: Any = document
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list) else place[parent]
        place[last] = value
    file = studio / f"{abs(hash(json.dumps(document, sort_keys=True)))}.yaml"
    file.write_text(yaml.safe_dump(document))
    return Recipe.load(file)


def file_of(studio: Path, asked: Recipe) -> Path:
    """Where `recipe` wrote it."""
    return next(file for file in studio.glob("*.yaml") if Recipe.load(file) == asked)


def killed(run: list[str], *, passes: int = 0, flush: str = "nothing") -> bool:
    """Whether a training in a process of its own died where it was to."""
    arguments = [sys.executable, "-c", KILLER, str(passes), flush, *run]
    return subprocess.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL


def unbroken_and_resumed(asked: Recipe, folder: Path, *, until: int) -> tuple[TrainResult, ...]:
    """The recipe trained in one go, and again with a stop after step `until`."""
    unbroken = train(asked, output=folder / "unbroken")
    with pytest.raises(Interrupted):
        train(asked, output=folder / "resumed", until=until)
    return unbroken, train(asked, output=folder / "resumed", resume=True)


def metrics(output: Path) -> list[dict[str, float]]:
    """What was told of each step so far, the step's number included."""
    log = output / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    told = [json.loads(line) for line in lines if line.endswith("}")]
    data = [event["data"] for event in told if event["kind"] == "metrics"]
    return [{"step": one["step"], **one["values"]} for one in data]


def last_step(output: Path) -> int:
    return int(max((told["step"] for told in metrics(output)), default=0))


class Saboteur(Silence):
    """Does something to the process when a step is reached."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def update(self, report: StepReport) -> None:
        if report.step == self.step:
            self.act()


class SmallDisk:
    """A disk that can be filled: a tmpfs in a mount namespace that a waiting process holds.

    That needs no privilege, but a kernel that lets users make namespaces. Where it does not, the
    size of files is limited instead.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        script = 'mount -t tmpfs -o size=64m tmpfs "$0" && echo mounted && exec cat'
        apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(folder)]
        self._holder = subprocess.Popen(
            apart, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        self._mounted = self._holder.stdout.readline() == "mounted\n"
        self.folder = Path(f"/proc/{self._holder.pid}/root{folder}") if self._mounted else folder
        self._ballast = self.folder / "ballast"

    def leave(self, room: int) -> list[str]:
        """Leaves `room` bytes; what to put before a command that has to make do with them."""
        if not self._mounted:
            return ["prlimit", f"--fsize={room}"]
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.folder).free - room)
        return []

    def make_room(self) -> None:
        """Empty again, but for what others wrote."""
        self._ballast.unlink(missing_ok=True)

    def __enter__(self) -> "SmallDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate(timeout=60)  # `cat` ends with its input, and the disk with it


class Server:
    """A real `mlflow server` that can be taken away and brought back at the same address."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self.url, self.folder = f"http://127.0.0.1:{port}", folder
        self.command = [sys.executable, "-m", "mlflow", "server", "--port", str(port)]
        self.command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
        self.command += ["--artifacts-destination", str(folder / "artifacts")]

    def __enter__(self) -> Tracking:
        log = (self.folder / "server.log").open("a")
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = subprocess.Popen(
            self.command, stdout=log, stderr=log, start_new_session=True, env=env
        )
        log.close()
        for _ in range(800):
            try:
                return Tracking(self.url)
            except Unavailable:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.5)
        raise AssertionError((self.folder / "server.log").read_text())

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
