"""Compare the time to the same loss: this project's trainer and diffusers' DreamBooth script.

Both use the same base, pictures, prompt, batch, rank, rate, precision and threads. Each runs in a
new process, and imports, class pictures and preparation are included in its time. Both write
checkpoints at a fixed interval. The bench records when each checkpoint appears, and afterwards
measures its loss: the mean squared error of the predicted noise on pictures of the subject and of
its class that neither trainer has used, at fixed noise levels with fixed noise. The goal is the
final loss of diffusers; the time to reach it is interpolated between checkpoints.

The trainer of this project runs twice. `ours` adapts the same layers at the same rate.
`recommended` uses the settings recommended in pipelines/train/README.md, which diffusers' script
does not support: it also adapts the feed-forward and projection layers, and B has four times the
learning rate of A (LoRA+).

    python bench/training.py --diffusers /tmp/train_dreambooth_lora_sdxl.py \\
        --base models/miniature --pictures examples/thor-cat/images

Neither trainer weights the loss by min-SNR, because diffusers' script fails if --snr_gamma is used
with class pictures.

diffusers' script is not part of this project; it is in `examples/dreambooth` of its repository.
The output has processor seconds beside wall seconds, because other work on the machine affects them
less. With --together, all trainers run at the same time with one thread each, so that other work
affects them equally.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from atelier.adapter.tensor_names import canonical  # noqa: E402
from atelier.data import yaml_text  # noqa: E402
from bench.yardstick import Yardstick, YardstickSpec  # noqa: E402
from services.engine.base import load_base  # noqa: E402


@dataclass
class Mark:
    """One checkpoint: the time at which it appeared, and its loss."""

    step: int
    weights: Path | None  # None for the base
    wall: float  # seconds since the start of the process
    processor: float  # processor seconds of all threads
    loss: float = float("nan")


@dataclass
class Trainer:
    """A process to measure; `marks_in` returns (step, file) of each checkpoint written so far."""

    name: str
    command: list[str]
    environment: dict[str, str]
    marks_in: Callable[[], list[tuple[int, Path]]]
    marks: list[Mark] = field(default_factory=list)
    wall: float = 0.0
    processor: float = 0.0
    peak_mib: float = 0.0
    failure: str = ""


def main() -> None:
    """Run the trainers, measure their checkpoints, and print and write the results."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    held_back = _split(options)
    trainers = [
        _diffusers(options),
        _ours(options, "ours", targets=["attn"], ratio=1.0),
        _ours(options, "recommended", targets=["attn", "ff", "proj"], ratio=4.0),
    ]
    _run(trainers, together=options.together)
    failures = [trainer.failure for trainer in trainers if trainer.failure]
    if failures:
        sys.exit("\n".join(failures))
    if options.together:
        torch.set_num_threads(1)  # threads that synchronise are slow on a busy machine
    spec = YardstickSpec(options.prompt, options.class_prompt, options.resolution)
    yardstick = Yardstick(load_base(str(options.base)), held_back, spec)
    start = yardstick.loss({})
    for trainer in trainers:
        for mark in trainer.marks:
            mark.loss = yardstick.loss(_weights(mark.weights))
        trainer.marks.insert(0, _begin(trainer, start))
    report = _report(options, trainers, start)
    (options.out / "training.json").write_text(json.dumps(report, indent=2, default=str))
    print(_table(report))
    print(f"\nagain: python {shlex.join(sys.argv)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--diffusers", type=Path, required=True, help="path of diffusers' script")
    parser.add_argument("--base", type=Path, default=ROOT / "models/miniature")
    parser.add_argument("--pictures", type=Path, default=ROOT / "examples/thor-cat/images")
    parser.add_argument("--prompt", default="a photo of a sks cat")
    parser.add_argument("--class-prompt", default="a photo of a cat")
    parser.add_argument("--class-images", type=int, default=32)
    parser.add_argument("--hold-out", type=int, default=4, help="hold back every n-th picture")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=25, help="steps between checkpoints")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--together", action="store_true", help="run at the same time instead of in turn"
    )
    parser.add_argument("--out", type=Path, default=Path("bench-training"))
    return parser.parse_args()


def _split(options: argparse.Namespace) -> list[Path]:
    """Copy the training pictures to a folder in the output; return the held-back pictures."""
    extensions = {".png", ".jpg", ".jpeg", ".webp"}
    pictures = sorted(p for p in options.pictures.iterdir() if p.suffix.lower() in extensions)
    held_back = pictures[options.hold_out - 1 :: options.hold_out]
    if not held_back:
        sys.exit(
            f"{options.pictures}: {len(pictures)} pictures are too few to hold one back; add "
            "pictures, or use a smaller --hold-out"
        )
    shutil.rmtree(options.out / "pictures", ignore_errors=True)
    (options.out / "pictures").mkdir()
    for path in pictures:
        if path not in held_back:
            shutil.copy(path, options.out / "pictures")
    return held_back


def _environment(options: argparse.Namespace, name: str) -> dict[str, str]:
    threads = "1" if options.together else str(options.threads)
    return {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "PYTHONPATH": str(ROOT),
        "ATELIER_HOME": str((options.out / f"home-{name}").absolute()),
        "HF_HUB_OFFLINE": "1",
    }


def _diffusers(options: argparse.Namespace) -> Trainer:
    output = options.out / "diffusers"
    shutil.rmtree(output, ignore_errors=True)
    shutil.rmtree(options.out / "class", ignore_errors=True)
    flags: dict[str, Any] = {
        "pretrained_model_name_or_path": options.base,
        "instance_data_dir": options.out / "pictures",
        "instance_prompt": options.prompt,
        "class_data_dir": options.out / "class",
        "class_prompt": options.class_prompt,
        "num_class_images": options.class_images,
        "sample_batch_size": 8,
        "prior_loss_weight": 1.0,
        "resolution": options.resolution,
        "train_batch_size": options.batch,
        "max_train_steps": options.steps,
        "learning_rate": options.lr,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "rank": options.rank,
        "mixed_precision": "no",
        "seed": 0,
        "checkpointing_steps": options.every,
        "output_dir": output,
    }
    command = [sys.executable, str(options.diffusers), "--with_prior_preservation"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    name = "pytorch_lora_weights.safetensors"

    def marks() -> list[tuple[int, Path]]:
        paths = output.glob(f"checkpoint-*/{name}")
        return [(int(path.parent.name.split("-")[1]), path) for path in paths]

    return Trainer("diffusers", command, _environment(options, "diffusers"), marks)


def _ours(options: argparse.Namespace, name: str, *, targets: list[str], ratio: float) -> Trainer:
    output = options.out / name
    shutil.rmtree(output, ignore_errors=True)
    shutil.rmtree(options.out / f"home-{name}", ignore_errors=True)
    recipe = {
        "adapter": "bench",
        "base": {"model": str(options.base.absolute())},
        "stages": [
            {
                "method": "dreambooth",
                "dataset": {
                    "path": str((options.out / "pictures").absolute()),
                    "resolution": options.resolution,
                    "hold_back": 0,  # `_split` has held pictures back from all trainers
                },
                "prompt": options.prompt,
                "prior": {"prompt": options.class_prompt, "images": options.class_images},
                "lora": {"rank": options.rank, "targets": targets},
                "train": {
                    "steps": options.steps,
                    "batch": options.batch,
                    "lr": options.lr,
                    "lr_ratio": ratio,
                },
            }
        ],
        "checkpoint": {"every": options.every, "keep": options.steps},
        "tracking": {"mlflow": False},
    }
    file = options.out / f"{name}.yaml"
    file.write_text(yaml_text.write(recipe))
    command = [sys.executable, "-m", "commands", "train", str(file)]
    command += ["--output", str(output)]

    def marks() -> list[tuple[int, Path]]:
        checkpoints = [
            (int(path.parent.name.split("-")[1]), path)
            for path in output.glob("checkpoints/step-*/state.pt")
        ]
        return [*checkpoints, *((options.steps, path) for path in output.glob("package/adapter.*"))]

    return Trainer(name, command, _environment(options, name), marks)


def _run(trainers: Sequence[Trainer], *, together: bool) -> None:
    if not together:
        for trainer in trainers:
            _watch(trainer)
        return
    threads = [threading.Thread(target=_watch, args=(trainer,)) for trainer in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _watch(trainer: Trainer) -> None:
    """Run a trainer, and record when its checkpoints appear, or why it failed."""
    started = time.monotonic()
    log = Path(trainer.environment["ATELIER_HOME"]).parent / f"{trainer.name}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            trainer.command, env=trainer.environment, stdout=out, stderr=subprocess.STDOUT
        )
    recorded: set[Path] = set()
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        wall = time.monotonic() - started
        used = usage.ru_utime + usage.ru_stime if ended else _processor_seconds(process.pid)
        for step, path in sorted(trainer.marks_in()):
            if path not in recorded:
                recorded.add(path)
                trainer.marks.append(Mark(step, path, wall, used))
        if ended:
            break
        time.sleep(0.1)
    if os.waitstatus_to_exitcode(status):
        trainer.failure = f"{trainer.name} failed:\n{log.read_text()[-3000:]}"
    trainer.wall, trainer.processor, trainer.peak_mib = wall, used, usage.ru_maxrss / 1024


def _processor_seconds(pid: int) -> float:
    """Return the processor seconds of all threads of a process so far.

    The source is fields 14 and 15 of /proc/PID/stat, in clock ticks (proc_pid_stat(5)).
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _begin(trainer: Trainer, loss: float) -> Mark:
    """Estimate the start of the updates from the first checkpoint and the time of a step."""
    first = trainer.marks[0]
    wall, used = (of(first) - first.step * _pace(trainer, of) for of in (_wall, _processor))
    return Mark(0, None, wall, used, loss)


def _weights(path: Path | None) -> dict[str, Tensor]:
    """Return the factors by canonical key from a checkpoint of either trainer.

    Both have alpha = rank. The result is empty for the base.
    """
    if path is None:
        return {}
    if path.suffix == ".pt":
        weights: dict[str, Tensor] = torch.load(path, weights_only=True)["weights"]
        return weights
    return {canonical(name) or name: tensor.float() for name, tensor in load_file(path).items()}


def _reached(trainer: Trainer, goal: float, of: Callable[[Mark], float]) -> float:
    """Return the time at which the loss first reached the goal, interpolated between checkpoints.

    Return infinity if the loss did not reach the goal.
    """
    for before, mark in pairwise(trainer.marks):
        if mark.loss <= goal < before.loss:
            share = (before.loss - goal) / (before.loss - mark.loss)
            return of(before) + share * (of(mark) - of(before))
    return float("inf")


def _pace(trainer: Trainer, of: Callable[[Mark], float]) -> float:
    """Return the seconds per step between the first and the last checkpoint."""
    first, last = trainer.marks[0], trainer.marks[-1]
    return (of(last) - of(first)) / max(1, last.step - first.step)


def _wall(mark: Mark) -> float:
    return mark.wall


def _processor(mark: Mark) -> float:
    return mark.processor


def _report(
    options: argparse.Namespace, trainers: Sequence[Trainer], start: float
) -> dict[str, Any]:
    goal = trainers[0].marks[-1].loss
    results = {}
    for trainer in trainers:
        results[trainer.name] = {
            "seconds_to_goal": _reached(trainer, goal, _wall),
            "processor_seconds_to_goal": _reached(trainer, goal, _processor),
            "seconds_a_step": _pace(trainer, _wall),
            "processor_seconds_a_step": _pace(trainer, _processor),
            "seconds": trainer.wall,
            "processor_seconds": trainer.processor,
            "peak_mib": trainer.peak_mib,
            "marks": [asdict(mark) for mark in trainer.marks],
        }
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "options": vars(options),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "commit": commit.stdout.strip(),
        "loss_before": start,
        "goal": goal,
        "trainers": results,
    }


def _table(report: dict[str, Any]) -> str:
    rows = [
        f"loss of the base {report['loss_before']:.5f}, goal {report['goal']:.5f} "
        f"({report['machine']})",
        "",
        "| trainer | to the goal | processor | ratio | a step | processor | peak | last loss |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    first = next(iter(report["trainers"].values()))
    for name, result in report["trainers"].items():
        processor = result["processor_seconds_to_goal"]
        ratio = first["seconds_to_goal"] / result["seconds_to_goal"]
        processor_ratio = first["processor_seconds_to_goal"] / processor
        rows.append(
            f"| {name} | {result['seconds_to_goal']:.0f} s | {processor:.0f} s "
            f"| {ratio:.2f}x, {processor_ratio:.2f}x | {result['seconds_a_step']:.3f} s "
            f"| {result['processor_seconds_a_step']:.3f} s | {result['peak_mib']:.0f} MiB "
            f"| {result['marks'][-1]['loss']:.5f} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
