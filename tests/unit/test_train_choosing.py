"""The choice among scored checkpoints, and the file that keeps their scores."""

from pathlib import Path

import pytest

from pipelines.train.choosing import Curve, Score, best, scores_in, turned


def scores(**margins: float) -> dict[int, Score]:
    """Scores by step, for example `s2=0.5`."""
    return {int(step[1:]): Score(margin, 0.0, {}) for step, margin in margins.items()}


@pytest.mark.parametrize(
    ("given", "step"),
    [
        ({}, None),
        (scores(s2=-0.5, s4=0.25, s6=0.125), 4),
        (scores(s6=0.125, s4=0.25, s2=-0.5), 4),
        (scores(s2=0.25, s4=0.25), 4),  # equal: the one that trained longer
        ({2: Score(0.25, 2.0, {}), 4: Score(0.25, 1.0, {})}, 2),  # the sum decides
    ],
)
def test_the_largest_margin_is_best(given: dict[int, Score], step: int | None) -> None:
    assert best(given) == step


def test_it_turns_when_so_many_scores_follow_the_best() -> None:
    falling = scores(s2=0.1, s4=0.3, s6=0.2, s8=0.25)
    assert turned(falling, 2)
    assert not turned(falling, 3)
    assert not turned(falling, None)
    assert not turned(scores(s2=0.1, s4=0.2), 1)
    assert not turned({}, 1)


def test_a_curve_comes_back_exactly(tmp_path: Path) -> None:
    file = tmp_path / "judged.json"
    curve = Curve(file, "sha256:policy")
    assert scores_in(file) == {}
    curve.add(20, Score(0.1 + 0.2, 1 / 3, {"subject": 0.123457}))
    curve.add(10, Score(-1.0, 0.0, {}))
    again = Curve(file, "sha256:policy")
    assert not again.foreign
    assert again.until(20) == curve.until(20) == scores_in(file)
    assert list(again.until(15)) == [10]


def test_scores_of_another_policy_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "judged.json"
    Curve(file, "sha256:before").add(10, Score(1.0, 1.0, {}))
    now = Curve(file, "sha256:now")
    assert now.foreign
    assert now.until(100) == {}
    now.add(20, Score(0.5, 0.5, {}))
    assert list(scores_in(file)) == [20]
