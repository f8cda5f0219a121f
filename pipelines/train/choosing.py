"""Chooses the checkpoint that becomes the adapter: the one with the best score.

The loop knows no judge, and this module knows no measure: a judge gives every judged checkpoint a
score. The scores are stored in the run folder, so that a resumed run computes none twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from atelier.files import write_atomic

if TYPE_CHECKING:
    from atelier.adapter.package import Package
    from services.engine import Engine


@dataclass(frozen=True)
class Score:
    """The score of a checkpoint: a larger `margin` is better, then a larger `total`.

    `values` are the measures by name. They are reported, but they decide nothing.
    """

    margin: float
    total: float
    values: Mapping[str, float]

    @property
    def metrics(self) -> dict[str, float]:
        """The score and the measures by their names in MLflow and W&B."""
        named = {"margin": self.margin, **self.values}
        return {f"judge/{name}": value for name, value in named.items()}

    def __str__(self) -> str:
        """Return the margin and the measures on one line."""
        values = ", ".join(f"{name} {value:.3f}" for name, value in self.values.items())
        return f"margin {self.margin:.3f} ({values})"


class Judge(Protocol):
    """Scores checkpoints. Equal packages get equal scores."""

    @property
    def digest(self) -> str:
        """The digest of everything that decides the scores, besides the package and the engine."""
        ...

    def score(self, package: Package, engine: Engine, check: Callable[[], None]) -> Score:
        """Score the package of a checkpoint with pictures by `engine`.

        `check` is called regularly. It raises an error if the work must stop.
        """
        ...


def best(scores: Mapping[int, Score]) -> int | None:
    """Return the step of the best score, the last of equal ones; None without scores."""
    return max(
        scores, key=lambda step: (scores[step].margin, scores[step].total, step), default=None
    )


def turned(scores: Mapping[int, Score], patience: int | None) -> bool:
    """Return whether at least `patience` scores follow the best one."""
    chosen = best(scores)
    if chosen is None or patience is None:
        return False
    return sum(step > chosen for step in scores) >= patience


class Curve:
    """The scores of a run by step, in a file. Scores by another judge are ignored."""

    def __init__(self, file: Path, judge: str) -> None:
        """Read the file, if it exists; `judge` is the digest of the judge."""
        self._file, self._judge = file, judge
        content = _read(file)
        self.foreign = content.judge not in ("", judge)  # whether scores were ignored
        self._scores = {} if self.foreign else dict(content.scores)

    def until(self, step: int) -> dict[int, Score]:
        """Return the scores up to `step`. A run that lost a checkpoint has later ones, too."""
        return {scored: score for scored, score in self._scores.items() if scored <= step}

    def add(self, step: int, score: Score) -> None:
        """Store a score."""
        self._scores[step] = score
        scores = {scored: asdict(of_step) for scored, of_step in sorted(self._scores.items())}
        write_atomic(self._file, json.dumps({"judge": self._judge, "scores": scores}, indent=1))


@dataclass(frozen=True)
class _Content:
    """The content of the file of a curve; without a file, `judge` is empty."""

    judge: str
    scores: Mapping[int, Score]


def scores_in(file: Path) -> Mapping[int, Score]:
    """Return the scores in the file of a completed run, by step; {} if it was not judged."""
    return _read(file).scores


def _read(file: Path) -> _Content:
    if not file.exists():
        return _Content("", {})
    content = json.loads(file.read_text())
    return _Content(
        content["judge"], {int(step): Score(**score) for step, score in content["scores"].items()}
    )
