"""How near a picture comes to the one that was judged, and how near it has to come.

Both are averaged over squares of 8 pixels first, which forgives fine detail, as other hardware or
number formats round it, and little else; then it is the mean difference in levels of 255. Measured
on the miniature (128 pixels, 20 steps, four prompts), from one version's fp32 pictures:

    drawn by                                        every pixel         squares of 8
    the same engine, one at a time, not sixteen     at most 0.0001      no more than that
    ONNX Runtime instead of torch                   at most 0.0001      no more than that
    fp16 instead of fp32, on the CPU                0.05 to 0.09        0.04 to 0.08
    bf16 instead of fp32, on the CPU                1.0 to 1.4          0.8 to 1.2
    another version, of another recipe              39.5 to 55.3        35.5 to 49.3
    another version, the nearest that was seen      8.6                 not measured
    the base, where a version changes little        3.2 to 5.5          2.6 to 4.7
    the base, where it is trained well              38                  not measured

GPUs of other kinds have not been measured, nor has SDXL: the tolerance is half of the nearest other
version's distance, and the operator's to set. It is for another engine than the one that judged;
the same one has to come nearer. A version that changes less than twice what is allowed is held to
half of what it changes; averaging left the base at four fifths of that, so its own picture is
refused then too.
"""

import io
import json
from typing import Final

import numpy as np
from PIL import Image

from atelier.errors import Refused
from pipelines.evaluate.attestations import JudgedImage

TOLERANCE: Final = 4.0  # levels of 255
# Of the tolerance, for the engine that judged. Its digest names backend, number format and kind of
# device, not the model of GPU or CPU, whose kernels sum in another order: in fp32 single pixels
# differ by a level then, and fp16 is 0.08 levels from fp32. Half a level is room for that and
# little else. bf16 on two kinds of GPU may need more, which a larger tolerance gives.
SAME: Final = 1 / 8
COARSE: Final = 8  # pixels, each way, that are averaged


class ImageMismatch(Refused):
    """A picture that does not come out as it was judged."""


def require_similar(
    png: bytes, sample: JudgedImage, label: str, tolerance: float = TOLERANCE
) -> str:
    """How near a picture of the gateway comes to the judged one; Unlike where that is too far.

    `tolerance` is another engine's; the one that judged gets a small part of it (SAME). Never
    farther than half of what the adapter changes, so that the base's own picture is refused for an
    adapter of small effect as well.
    """
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        engine = json.loads(image.text["atelier"])["engine_digest"]  # type: ignore[attr-defined]
        made = image.convert("RGB")
    if made.size != sample.image.size:
        raise ImageMismatch(
            f"{label} draws {made.width}x{made.height} pixels, "
            f"but was judged at {sample.image.width}x{sample.image.height}"
        )
    apart = distance(made, sample.image)
    same = engine == sample.engine_digest
    limit = tolerance * SAME if same else tolerance
    if sample.effect is not None:
        limit = min(limit, 255 * sample.effect / 2)
    by = "the engine" if same else "another engine than that"
    told = f"{apart:.2f} of 255 levels from the judged picture, by {by} that judged it"
    if apart > limit:
        raise ImageMismatch(
            f"{label} does not draw what was judged: {sample.prompt!r}, seed {sample.seed}, comes "
            f"out {told}, and at most {limit:.2f} are allowed; compare base, VAE and engine, or "
            "set the platform's smoke.tolerance"
        )
    return told


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean difference in levels of 255 of squares' averages; what is over at the edges is left."""
    apart = np.asarray(one, dtype=np.float32) - np.asarray(other, dtype=np.float32)
    rows, columns = (side // COARSE for side in apart.shape[:2])
    squares = apart[: rows * COARSE, : columns * COARSE]
    means = squares.reshape(rows, COARSE, columns, COARSE, -1).mean(axis=(1, 3))
    return float(np.abs(means).mean())
