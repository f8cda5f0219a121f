"""Confidence intervals of gate values: over the seeds, for a fixed set of prompts.

The prompts are the policy's, so only the seeds are a sample. A mean is the mean of the prompts'
means, and its variance comes from the seeds within each prompt (stratified sampling). `rate` says
that the values are 0 and 1, of a picture that has a property or not.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

Interval = tuple[float, float]

# Share of prompts that `worst` ignores at the bad end: with up to ten prompts it is nearly the
# worst prompt itself, and with more it does not depend on a single one.
WORST: Final = 0.05


def mean_interval(prompts: Sequence[np.ndarray], level: float, *, rate: bool) -> Interval | None:
    """Return the interval of the mean of the prompts' means at confidence `level`.

    `prompts` has the values of each prompt. Returns None if no prompt has two values. The interval
    of a rate is that of Clopper and Pearson (1934); prompts with different rates only make it wider
    than necessary. Otherwise it is Student's, with the degrees of freedom of Welch and
    Satterthwaite.
    """
    if rate:
        return rate_interval(np.concatenate(prompts), level)
    measured = [values for values in prompts if len(values) > 1]
    if not measured:
        return None
    mean = float(np.mean([values.mean() for values in prompts]))
    terms = [values.var(ddof=1) / len(values) for values in measured]
    variance = sum(terms) / len(measured) ** 2
    freedom = combined_freedom(terms, [len(values) - 1 for values in measured])
    reach = student(level, freedom) * float(np.sqrt(variance))
    return mean - reach, mean + reach


def welch_interval(one: np.ndarray, other: np.ndarray, level: float) -> Interval | None:
    """Return Welch's interval of the difference of two means, `one` minus `other`.

    The values are two unpaired samples, whose variances may differ. Returns None if one of them has
    fewer than two values.
    """
    if min(len(one), len(other)) < 2:
        return None
    terms = [float(values.var(ddof=1)) / len(values) for values in (one, other)]
    freedom = combined_freedom(terms, [len(one) - 1, len(other) - 1])
    reach = student(level, freedom) * sum(terms) ** 0.5
    delta = float(one.mean() - other.mean())
    return delta - reach, delta + reach


def worst_interval(
    prompts: Sequence[np.ndarray], level: float, *, low: bool, rate: bool
) -> Interval | None:
    """Return the interval of the worst prompt's mean: the lowest if `low`, else the highest.

    The level holds for all prompts together (Bonferroni), because the worst one is not known in
    advance. The seeds of all prompts estimate one variance; one prompt alone has too few.
    """
    each = 1 - (1 - level) / len(prompts)
    if rate:
        ends = [rate_interval(values, each) for values in prompts]
    else:
        freedom = sum(len(values) - 1 for values in prompts)
        if not freedom:
            return None
        squares = sum(((values - values.mean()) ** 2).sum() for values in prompts)
        reach = student(each, freedom) * float(np.sqrt(squares / freedom))
        ends = [
            (values.mean() - reach / len(values) ** 0.5, values.mean() + reach / len(values) ** 0.5)
            for values in prompts
        ]
    return worst([end[0] for end in ends], low), worst([end[1] for end in ends], low)


def worst(means: Sequence[float], low: bool) -> float:
    """Return the mean of the worst prompt, or the quantile near it if there are many prompts."""
    return float(np.quantile(means, WORST if low else 1 - WORST))


def rate_interval(values: np.ndarray, level: float) -> Interval:
    """Return the Clopper-Pearson interval of a rate, for values of 0 and 1."""
    from scipy.special import betaincinv  # slow to import

    count, successes = len(values), int(values.sum())
    tail = (1 - level) / 2
    failures = count - successes
    low = betaincinv(successes, failures + 1, tail) if successes else 0.0
    high = betaincinv(successes + 1, failures, 1 - tail) if failures else 1.0
    return float(low), float(high)


def student(level: float, freedom: float) -> float:
    """Return the half-width of Student's central interval at `level`, in standard errors."""
    from scipy.special import stdtrit  # scipy.stats takes even longer to import

    return float(stdtrit(freedom, 0.5 + level / 2))


def combined_freedom(terms: Sequence[float], each: Sequence[float]) -> float:
    """Return the degrees of freedom of a sum of variances (Welch-Satterthwaite)."""
    below = sum(term**2 / freedom for term, freedom in zip(terms, each, strict=True))
    return sum(terms) ** 2 / below if below else float(sum(each))
