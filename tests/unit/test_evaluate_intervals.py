"""The intervals hold the true value as often as they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluate.intervals import (
    mean_interval,
    rate_interval,
    welch_interval,
    worst_interval,
)

TRIALS = 2000


def covered(hits: int, level: float) -> bool:
    """Whether the share of hits is the level or more, up to four standard errors of the trials."""
    return hits / TRIALS > level - 4 * (level * (1 - level) / TRIALS) ** 0.5


@pytest.mark.parametrize("seeds", [2, 4, 16])
@pytest.mark.parametrize("level", [0.9, 0.98])
def test_a_mean_is_in_its_interval(seeds: int, level: float) -> None:
    draw = np.random.default_rng(seeds)
    prompts = np.array([0.2, 0.5, 0.9, 0.4])
    hits = 0
    for _ in range(TRIALS):
        values = prompts[:, None] + draw.normal(0, 0.1, (4, seeds))
        low, high = mean_interval(list(values), level, rate=False) or (1, 0)
        hits += low <= prompts.mean() <= high
    assert covered(hits, level)


@pytest.mark.parametrize("low", [True, False])
def test_the_worst_prompt_is_in_its_interval(low: bool) -> None:
    draw = np.random.default_rng(1)
    prompts = np.array([0.2, 0.25, 0.8, 0.9])
    hits = 0
    for _ in range(TRIALS):
        values = list(prompts[:, None] + draw.normal(0, 0.1, (4, 4)))
        found = worst_interval(values, 0.95, low=low, rate=False)
        truth = float(np.quantile(prompts, 0.05 if low else 0.95))
        hits += found is not None and found[0] <= truth <= found[1]
    assert covered(hits, 0.95)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.97])
def test_a_rate_is_in_its_interval_though_prompts_differ(rate: float) -> None:
    draw = np.random.default_rng(2)
    hits = 0
    for _ in range(TRIALS):
        chances = np.clip(rate + np.array([-0.1, -0.05, 0.05, 0.1]), 0, 1)
        values = [draw.random(8) < chance for chance in chances]
        low, high = mean_interval([v.astype(float) for v in values], 0.95, rate=True) or (1, 0)
        hits += low <= chances.mean() <= high
    assert covered(hits, 0.95)


@given(st.integers(1, 60), st.integers(0, 60), st.floats(0.5, 0.999))
def test_a_rates_interval_holds_the_rate_and_stays_within_0_and_1(
    count: int, successes: int, level: float
) -> None:
    values = np.arange(count) < min(successes, count)
    low, high = rate_interval(values.astype(float), level)
    assert 0 <= low <= values.mean() <= high <= 1


def test_one_seed_has_no_interval() -> None:
    assert mean_interval([np.array([0.3]), np.array([0.4])], 0.95, rate=False) is None
    assert worst_interval([np.array([0.3])], 0.95, low=True, rate=False) is None


def test_equal_values_decide() -> None:
    assert mean_interval([np.zeros(4), np.zeros(4)], 0.95, rate=False) == (0.0, 0.0)


@pytest.mark.parametrize("level", [0.9, 0.99])
@pytest.mark.parametrize(("one", "other"), [((8, 0.1), (8, 0.1)), ((32, 0.02), (6, 0.3))])
def test_a_difference_is_in_its_interval_though_sizes_and_variances_differ(
    level: float, one: tuple[int, float], other: tuple[int, float]
) -> None:
    draw = np.random.default_rng(3)
    hits = 0
    for _ in range(TRIALS):
        a, b = (draw.normal(mean, one[1], one[0]) for mean, one in ((0.6, one), (0.7, other)))
        low, high = welch_interval(a, b, level) or (1, 0)
        hits += low <= -0.1 <= high
    assert covered(hits, level)
    assert hits / TRIALS < level + 4 * (level * (1 - level) / TRIALS) ** 0.5  # and is no wider


def test_one_value_has_no_interval_of_a_difference() -> None:
    assert welch_interval(np.array([0.3]), np.array([0.4, 0.5]), 0.95) is None
