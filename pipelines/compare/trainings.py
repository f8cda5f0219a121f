"""Compares two recipes whose trainings and pictures both vary: a model with two levels of chance.

A value belongs to a training, a prompt and a seed. The prompts are fixed. The trainings of a recipe
(repeats with other training seeds) are one sample, and the seeds of the pictures are another. All
trainings use the same picture seeds, so differences are paired. `Values` has one array
[trainings, seeds] for each prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipelines.evaluate.intervals import Interval, combined_freedom, student

LEVEL: Final = 0.95
BISECTIONS: Final = 40  # for a p-value to twelve digits

Values = Sequence[np.ndarray]


@dataclass(frozen=True)
class Scatter:
    """The standard deviation between trainings of one recipe.

    `sd` is that of the mean over all prompts, and `prompt_sd` that of the mean of one prompt. Both
    include the chance of the pictures. `freedom` is the number of trainings less that of recipes.
    """

    sd: float
    prompt_sd: float
    freedom: int


@dataclass(frozen=True)
class Estimate:
    """A difference with its interval and two-sided p-value; both None if no variance is known."""

    delta: float
    ci: Interval | None
    p: float | None


@dataclass(frozen=True)
class _Term:
    """One independent part of the variance of a difference, with its degrees of freedom."""

    variance: float
    freedom: float


def scatter(groups: Sequence[Values]) -> Scatter | None:
    """Return the scatter within the groups, pooled; None if no recipe was trained twice.

    The recipes are assumed to scatter equally, because two or three repeats of each would not show
    a difference.
    """
    freedom = sum(len(values[0]) - 1 for values in groups)
    if not freedom:
        return None
    means = [_means(values) for values in groups]
    overall = sum(_squares(each.mean(axis=0)) for each in means)
    prompts = sum(_squares(row) for each in means for row in each) / len(means[0])
    return Scatter(
        float(np.sqrt(overall / freedom)), float(np.sqrt(prompts / freedom)), int(freedom)
    )


def pooled(known: Sequence[Scatter | None]) -> Scatter | None:
    """Return one scatter from several independent ones, weighted by their degrees of freedom."""
    found = [each for each in known if each is not None]
    freedom = sum(each.freedom for each in found)
    if not freedom:
        return None
    overall = sum(each.freedom * each.sd**2 for each in found) / freedom
    prompts = sum(each.freedom * each.prompt_sd**2 for each in found) / freedom
    return Scatter(float(np.sqrt(overall)), float(np.sqrt(prompts)), freedom)


def difference(first: Values, second: Values, known: Scatter | None) -> Estimate:
    """Return the difference of the recipes' means over all prompts, `second` minus `first`.

    `known` is the scatter between trainings. Without it, the interval covers the chance of the
    pictures alone: it holds for these trainings, not for their recipes.
    """
    paired = _paired(first, second)
    delta = float(np.mean([row.mean() for row in paired]))
    terms = [_seeds([row], None) for row in paired]
    seeds = _Term(
        sum(term.variance for term in terms if term) / len(paired) ** 2,
        combined_freedom(
            [term.variance for term in terms if term], [term.freedom for term in terms if term]
        ),
    )
    shared = _shared(seeds, _residual(first, second) / len(paired)) if any(terms) else None
    between = None if known is None else _between(known.sd, known, first, second)
    return _estimate(delta, between, shared, LEVEL)


def by_prompt(first: Values, second: Values, known: Scatter | None) -> list[Estimate]:
    """Return the difference of each prompt. The intervals hold for all prompts together.

    The seeds of all prompts estimate one variance, because one prompt has too few.
    """
    paired = _paired(first, second)
    level = 1 - (1 - LEVEL) / len(paired)  # Bonferroni
    between = None if known is None else _between(known.prompt_sd, known, first, second)
    estimates = []
    for row in paired:
        seeds = _seeds(paired, len(row))
        shared = _shared(seeds, _residual(first, second)) if seeds else None
        estimates.append(_estimate(float(row.mean()), between, shared, level))
    return estimates


def _means(values: Values) -> np.ndarray:
    """Return the mean of each training, [prompts, trainings]."""
    return np.stack([rows.mean(axis=1) for rows in values])


def _squares(row: np.ndarray) -> float:
    return float(((row - row.mean()) ** 2).sum())


def _paired(first: Values, second: Values) -> list[np.ndarray]:
    """Return the differences of each prompt by seed, of the means over the trainings."""
    return [b.mean(axis=0) - a.mean(axis=0) for a, b in zip(first, second, strict=True)]


def _seeds(rows: Sequence[np.ndarray], count: int | None) -> _Term | None:
    """Return the variance of a prompt's mean from the chance of its seeds, pooled over `rows`."""
    freedom = sum(len(row) - 1 for row in rows)
    if not freedom:
        return None
    variance = sum(_squares(row) for row in rows) / freedom
    return _Term(variance / (count or len(rows[0])), freedom)


def _between(sd: float, known: Scatter, first: Values, second: Values) -> _Term:
    """Return the variance of the difference from the scatter `sd` between trainings."""
    return _Term(sd**2 * _shares(first, second), known.freedom)


def _shares(first: Values, second: Values) -> float:
    return 1 / len(first[0]) + 1 / len(second[0])


def _residual(first: Values, second: Values) -> float:
    """Return the part of a prompt's variance by seeds that the scatter already includes.

    It is the interaction of training and picture within a recipe. Without repeats it is 0, so the
    interval is wider than necessary rather than too narrow.
    """
    squares, freedom, seeds = 0.0, 0, []
    for rows in (*first, *second):
        rest = rows - rows.mean(axis=0) - rows.mean(axis=1, keepdims=True) + rows.mean()
        squares += float((rest**2).sum())
        freedom += (rows.shape[0] - 1) * (rows.shape[1] - 1)
        seeds.append(rows.shape[1])
    return squares / freedom / float(np.mean(seeds)) * _shares(first, second) if freedom else 0.0


def _shared(seeds: _Term, residual: float) -> _Term:
    """Return what the seeds add to the scatter: their effect on all trainings of a recipe."""
    return _Term(max(0.0, seeds.variance - residual), seeds.freedom)


def _estimate(delta: float, between: _Term | None, seeds: _Term | None, level: float) -> Estimate:
    """Return the estimate from both variances."""
    terms = [term for term in (between, seeds) if term is not None]
    if not terms:
        return Estimate(delta, None, None)
    reach = _reach(terms, level)
    return Estimate(delta, (delta - reach, delta + reach), _p_value(delta, terms))


def _reach(terms: Sequence[_Term], level: float) -> float:
    """Return half the width of an interval that covers at least `level` (Banerjee, 1960).

    Each variance has its own quantile of Student. One quantile for the sum (Satterthwaite) covers
    only 88 % instead of 95 % if most of the variance is from two trainings.
    """
    return float(np.sqrt(sum(student(level, t.freedom) ** 2 * t.variance for t in terms)))


def _p_value(delta: float, terms: Sequence[_Term]) -> float:
    """Return 1 less the largest level whose interval excludes zero, found by bisection."""
    if not delta or not any(term.variance for term in terms):
        return 0.0 if delta else 1.0
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        excludes = _reach(terms, middle) < abs(delta)
        low, high = (middle, high) if excludes else (low, middle)
    return 1 - low
