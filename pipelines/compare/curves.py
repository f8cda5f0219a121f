"""Draws the curves of several runs over each other, as SVG that needs no script or font."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Final

import numpy as np

from pipelines.train.curves import moving_mean

from .runs import JUDGED, LOSS, RunRecord, Series

WIDTH, HEIGHT = 400, 220  # user units; small, so that the labels stay legible on a phone
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 26
POINTS: Final = 300  # of a line; more would not be visible
SHARE: Final = 12  # the window of the moving mean is this part of a run


@dataclass(frozen=True)
class Line:
    """A curve in user units: the points of an SVG polyline, and the index of its run."""

    run: int
    points: str


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in user units and its label."""

    place: float
    label: str


@dataclass(frozen=True)
class Chart:
    """One metric of all runs that recorded it."""

    title: str
    note: str
    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


def charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """Return the chart of the loss and those of the judged scores, if a run recorded any."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    judged = sorted(name for name in names if name.startswith(JUDGED))
    made = [_loss(runs)] if LOSS in names else []
    return made + [
        _chart(name.removeprefix(JUDGED), "by step", _series(runs, name)) for name in judged
    ]


def smoothed(series: Series) -> Series:
    """Return the moving mean, because the loss of a single step says little.

    Each value is the mean of a window that ends at its step.
    """
    width = max(1, len(series.values) // SHARE)
    means = moving_mean(series.values, width)
    return Series(series.steps[width - 1 :], tuple(means))


def _loss(runs: Sequence[RunRecord]) -> Chart:
    raw = _series(runs, LOSS)
    note = f"by step; moving mean over 1/{SHARE} of each run"
    return _chart("loss", note, {run: smoothed(series) for run, series in raw.items()})


def _series(runs: Sequence[RunRecord], name: str) -> dict[int, Series]:
    return {
        index: run.metrics[name]
        for index, run in enumerate(runs)
        if name in run.metrics and run.metrics[name].steps
    }


def _chart(title: str, note: str, series: dict[int, Series]) -> Chart:
    steps = np.concatenate([each.steps for each in series.values()])
    values = np.concatenate([each.values for each in series.values()])
    values = values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1)
    x, y = _Axis.over(0.0, float(steps.max())), _Axis.over(float(values.min()), float(values.max()))
    return Chart(
        title,
        note,
        tuple(Line(run, _points(each, x, y)) for run, each in series.items()),
        tuple(Tick(_right(x, at), label) for at, label in x.ticks()),
        tuple(Tick(_up(y, at), label) for at, label in y.ticks()),
    )


@dataclass(frozen=True)
class _Axis:
    """The range of an axis, and the distance of its marks."""

    low: float
    high: float
    step: float

    @classmethod
    def over(cls, low: float, high: float) -> "_Axis":
        """Return an axis with three to six round marks."""
        span = high - low or abs(high) or 1.0
        rough = span / 4
        power = 10.0 ** floor(log10(rough))
        step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough)
        return cls(floor(low / step) * step, -floor(-high / step) * step or step, step)

    def share(self, value: float) -> float:
        """Return the place of a value on the axis, from 0 to 1."""
        return (value - self.low) / (self.high - self.low or 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the places and labels of the marks."""
        count = round((self.high - self.low) / self.step)
        places = [self.low + index * self.step for index in range(count + 1)]
        return [(place, f"{round(place, 10):g}") for place in places]


def _right(axis: _Axis, value: float) -> float:
    return round(LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT), 1)


def _up(axis: _Axis, value: float) -> float:
    return round(HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM), 1)


def _points(series: Series, x: _Axis, y: _Axis) -> str:
    every = -(-len(series.steps) // POINTS)
    places = list(zip(series.steps, series.values, strict=True))
    kept = places[::every] + (places[-1:] if (len(places) - 1) % every else [])
    return " ".join(
        f"{_right(x, step)},{_up(y, value)}" for step, value in kept if np.isfinite(value)
    )
