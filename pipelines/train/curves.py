"""Plots the loss of trainings from the logs of their run folders."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.train.run_folder import RunFolder
from pipelines.train.tracking.tracker import LOG

LOSS = "loss.png"  # in the run folder
WINDOW = 25  # number of steps to average, because the loss of a single step is too noisy
COLOURS = ("#2f6f8f", "#c8553d")


@dataclass(frozen=True)
class Curve:
    """The loss of one training by step."""

    name: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]

    @classmethod
    def read(cls, name: str, log: Path) -> "Curve":
        """Read the curve from the `log.jsonl` of a run."""
        points = []
        for line in log.read_text("utf-8").splitlines():
            event = json.loads(line)
            if event["kind"] == "metrics" and "loss" in event["data"]["values"]:
                points.append((event["data"]["step"], event["data"]["values"]["loss"]))
        return cls(name, tuple(step for step, _ in points), tuple(loss for _, loss in points))


def loss_plot(run: RunFolder) -> Path:
    """Plot the loss of a run into its folder and return the path. Without steps, plot nothing."""
    curve = Curve.read(run.root.name, run.root / LOG)
    if curve.steps:
        plot([curve], run.root / LOSS)
    return run.root / LOSS


def plot(curves: Sequence[Curve], file: Path) -> None:
    """Plot each curve twice: the raw loss in a faint color, and the mean loss of WINDOW steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.2), dpi=160, layout="constrained", facecolor="#fcfbf8")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_facecolor("#fcfbf8")
    for curve, colour in zip(curves, COLOURS, strict=False):
        axes.plot(curve.steps, curve.losses, color=colour, alpha=0.18, linewidth=0.8)
        smooth = moving_mean(curve.losses, WINDOW)
        steps = curve.steps[len(curve.steps) - len(smooth) :]
        axes.plot(steps, smooth, color=colour, linewidth=1.8, label=curve.name)
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss, mean of {WINDOW} steps")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e3da", linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    figure.savefig(file)


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the means of `window` consecutive values, at most of all; one per complete window."""
    width = min(window, max(1, len(values)))
    return [float(mean) for mean in np.convolve(values, np.ones(width) / width, mode="valid")]
