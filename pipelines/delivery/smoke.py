"""A picture through the gateway, as its users ask for one, before a release counts as served.

Where pictures of a verdict are at hand, those are asked for again and have to come out: the same
prompt, seed and steps. `image_similarity.py` says how near.
"""

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any

from atelier import http_client
from atelier.data.release import Pin, Release
from atelier.errors import AtelierError, Refused, Unavailable
from pipelines.delivery.image_similarity import TOLERANCE, require_similar
from pipelines.evaluate.attestations import JudgedImage

# Says how the pictures of one of a release's versions came out; raises where none comes, or one of
# another version, or (Unlike) of other pixels than the samples'.
Smoke = Callable[[Release, Pin, Sequence[JudgedImage]], str]

STEPS, SECONDS = 1, 120.0  # steps without a sample; one of SDXL takes a GPU seconds
_TEXT = 500  # characters of an answer that are told
_LATER = (429, 502, 503, 504)


def gateway_smoke(url: str, key: str, tolerance: float = TOLERANCE) -> Smoke:
    """Asks the gateway at `url`; Unavailable where it may succeed later, else Refused."""

    def smoke(release: Release, pin: Pin, samples: Sequence[JudgedImage]) -> str:
        label = f"{release.adapter}@{pin.version}"
        # where a canary takes a share, a call without a version may be either's
        adapter = label if release.canary else release.adapter

        def draw(request: dict[str, Any]) -> bytes:
            found = _ask(url, key, {"adapter": adapter, **request}, label)
            made = {one["digest"] for one in found["adapters"]}
            if made != {pin.digest}:
                raise Refused(f"the picture of {label} was made by {sorted(made)}")
            return base64.b64decode(found["images"][0]["png"])

        if not samples:
            draw({"prompt": "smoke check", "steps": STEPS, "seed": 0})
            return f"{label} draws; no verdict with its base and VAE has a picture to compare with"
        told = [require_similar(draw(_request(one)), one, label, tolerance) for one in samples]
        return f"{label} draws what was judged: {'; '.join(told)}"

    return smoke


def _request(sample: JudgedImage) -> dict[str, Any]:
    """The judged picture's: nothing filled in, and what a verdict leaves out stays left out."""
    return {
        "prompt": sample.prompt,
        "fill_trigger": False,
        "seed": sample.seed,
        **sample.sampling.model_dump(),
    }


def _ask(url: str, key: str, body: dict[str, Any], label: str) -> dict[str, Any]:
    what = f"the picture of {label}"
    answer = http_client.send(
        "POST",
        f"{url.rstrip('/')}/generate_image",
        what=f"{what}, from {url}",
        timeout=SECONDS,
        headers={"X-API-Key": key},
        body=body,
    )
    if not answer.is_success:
        raise _refusal(answer.status_code, answer.text, what)
    found: dict[str, Any] = http_client.decoded(answer, what=what)
    return found


def _refusal(status: int, text: str, what: str) -> AtelierError:
    """What a gateway's answer means to who runs it: mend a setting, or ask again later."""
    problem = _problem(text)
    used, quota = problem.get("images"), problem.get("quota")
    if isinstance(used, int) and isinstance(quota, int) and used >= quota:
        return Refused(
            f"{what}: the hook's key has used up its quota of {quota} pictures; keep one without a "
            "quota (`atelier keys create`) in the Secret that the platform's smoke.secret names"
        )
    for one in problem.get("errors") or ():
        if one.get("field") == "steps":
            return Refused(
                f"{what}: it was judged with more steps than the gateway takes ({one['message']}); "
                "raise the platform's gateway.settings.MAX_STEPS, or lower `steps` in the "
                "environment's policy.yaml and judge it again"
            )
    kind = Unavailable if status in _LATER else Refused
    return kind(f"{what}: the gateway says {status}: {text[:_TEXT]}")


def _problem(text: str) -> dict[str, Any]:
    """The members of a problem document; none where something before the gateway answered."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
