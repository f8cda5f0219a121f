"""How near a picture comes to the one that was judged, and how near it has to come.
TABLE
"""

import io
import json
from typing import Final

import numpy as np
from PIL import Image

from atelier.errors import Refused
from pipelines.evaluate.attested import Sample

TOLERANCE: Final = 4.0  # levels of 255
COARSE: Final = 8  # pixels, each way, that are averaged


class Unlike(Refused):
    """A picture that does not come out as it was judged."""


def alike(png: bytes, sample: Sample, label: str, tolerance: float = TOLERANCE) -> str:
    """How near a picture of the gateway comes to the judged one; Unlike where that is too far.

    Never farther than a quarter of what the adapter changes, so that the base's own picture is
    refused for an adapter of small effect as well.
    """
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        engine = json.loads(image.text["atelier"])["engine_digest"]  # type: ignore[attr-defined]
        made = image.convert("RGB")
    if made.size != sample.image.size:
        raise Unlike(
            f"{label} draws {made.width}x{made.height} pixels, "
            f"but was judged at {sample.image.width}x{sample.image.height}"
        )
    apart = distance(made, sample.image)
    limit = tolerance if sample.effect is None else min(tolerance, 255 * sample.effect / 4)
    by = "the engine" if engine == sample.engine_digest else "another engine than that"
    told = f"{apart:.2f} of 255 levels from the judged picture, by {by} that judged it"
    if apart > limit:
        raise Unlike(
            f"{label} does not draw what was judged: {sample.prompt!r}, seed {sample.seed}, comes "
            f"out {told}, and at most {limit:.2f} are allowed; compare base, VAE and engine, or "
            "set the platform's smoke.tolerance"
        )
    return told


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean difference in levels of 255, after each was averaged over squares of pixels."""
    ours, theirs = (np.asarray(image.reduce(COARSE), dtype=np.float32) for image in (one, other))
    return float(np.abs(ours - theirs).mean())
