"""The learning-rate schedule, as a factor of the peak rate."""

import math


def cosine(
    step: int, steps: int, cold: int = 0, *, warmup: int = 100, floor: float = 0.01
) -> float:
    """Return the factor at `step` of `steps`: half a cosine to `floor`.

    It is multiplied by a linear warm-up from step `cold`, the first of the optimiser.
    """
    rise = min(1.0, (step - cold + 1) / warmup)
    return rise * max(floor, 0.5 * (1 + math.cos(math.pi * step / steps)))
