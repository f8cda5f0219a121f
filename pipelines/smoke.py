"""A picture through the gateway, as its users ask for one, before a release counts as served.

Where a picture of the verdict is at hand, that one is asked for again and has to come out: the same
prompt, seed and steps. How near, is the mean difference of pixels in levels of 255. Measured on the
miniature in fp32, four prompts of 20 steps: the same engine on another day, drawing one picture at
a time instead of sixteen, differs by at most 0.0001 (one level in a few pixels), and so does ONNX
Runtime from torch; another version of the same character by 8.6 at least, the base alone by 38.
Half precision on a GPU, whose kind and batch an engine's digest does not name, rounds more coarsely
and has not been measured: hence the room in both limits.
"""

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from PIL import Image

from atelier.errors import Refused, Unavailable
from atelier.release import Release
from pipelines.evaluate.attested import Sample

# Says how the picture came out; raises where none comes, or one of another version or of other
# pixels than the sample's.
Smoke = Callable[[Release, Sample | None], str]

STEPS, SECONDS = 1, 120.0  # steps without a sample; one of SDXL takes a GPU seconds
SAME_ENGINE: Final = 2.0  # levels of 255, mean over the picture
OTHER_ENGINE: Final = 4.0
_TEXT = 500  # characters of an answer that are told
_LATER = (429, 502, 503, 504)


def gateway_smoke(url: str, key: str) -> Smoke:
    """Asks the gateway at `url`; Unavailable where it may succeed later, else Refused."""

    def smoke(release: Release, sample: Sample | None) -> str:
        label = f"{release.adapter}@{release.version}"
        # where a canary takes a share, a call without a version may be the canary's
        adapter = label if release.canary else release.adapter
        found = _ask(url, key, {"adapter": adapter, **_request(sample)}, label)
        made = {one["digest"] for one in found["adapters"]}
        if made != {release.digest}:
            raise Refused(f"the picture of {label} was made by {sorted(made)}")
        if sample is None:
            return f"{label} draws; no picture of its verdict is there to compare with"
        png = base64.b64decode(found["images"][0]["png"])
        return f"{label} {alike(png, sample, label)}"

    return smoke


def _request(sample: Sample | None) -> dict[str, Any]:
    """The judged picture's: nothing filled in, and what a verdict leaves out stays left out."""
    if sample is None:
        return {"prompt": "smoke check", "steps": STEPS, "seed": 0}
    return {
        "prompt": sample.prompt,
        "fill_trigger": False,
        "seed": sample.seed,
        **sample.sampling.model_dump(),
    }


def _ask(url: str, key: str, body: dict[str, Any], label: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url.rstrip('/')}/generate_image",
        data=json.dumps(body).encode(),
        headers={"X-API-Key": key, "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")[:_TEXT]
        kind = Unavailable if error.code in _LATER else Refused
        raise kind(f"the picture of {label}: the gateway says {error.code}: {text}") from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"the picture of {label}: {url} does not answer: {error}") from error


def alike(png: bytes, sample: Sample, label: str) -> str:
    """How near a picture of the gateway comes to the judged one; Refused where that is too far.

    Never farther than half of what the adapter changes, so that the base's own picture is refused
    for an adapter of small effect as well.
    """
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        engine = json.loads(image.text["atelier"])["engine_digest"]  # type: ignore[attr-defined]
        made = image.convert("RGB")
    if made.size != sample.image.size:
        raise Refused(
            f"{label} draws {made.width}x{made.height} pixels, "
            f"but was judged at {sample.image.width}x{sample.image.height}"
        )
    same = engine == sample.engine_digest
    ours, judged = (np.asarray(one, dtype=np.float32) for one in (made, sample.image))
    apart = float(np.abs(ours - judged).mean())
    limit = min(SAME_ENGINE if same else OTHER_ENGINE, 255 * sample.effect / 2)
    by = "the engine" if same else "another engine than that"
    told = f"{apart:.2f} of 255 levels from the judged picture, by {by} that judged it"
    if apart > limit:
        raise Refused(
            f"{label} does not draw what was judged: {sample.prompt!r}, seed {sample.seed}, comes "
            f"out {told}, and at most {limit:.2f} are allowed; compare base, VAE and engine"
        )
    return f"draws what was judged: {told}"
