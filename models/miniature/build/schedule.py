"""Learning rates over a run, as a factor of the peak."""

import math


def cosine(step: int, steps: int, warmup: int = 100, floor: float = 0.01) -> float:
    """A short linear warm-up, then half a cosine down to `floor`."""
    rise = min(1.0, (step + 1) / warmup)
    return rise * max(floor, 0.5 * (1 + math.cos(math.pi * step / steps)))
