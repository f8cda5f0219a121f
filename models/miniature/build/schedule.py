"""The learning-rate schedule, as a factor of the peak rate."""

import math


def cosine(step: int, steps: int, warmup: int = 100, floor: float = 0.01) -> float:
    """Return the factor at `step` of `steps`: linear warm-up, then half a cosine to `floor`."""
    rise = min(1.0, (step + 1) / warmup)
    return rise * max(floor, 0.5 * (1 + math.cos(math.pi * step / steps)))
