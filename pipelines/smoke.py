"""A picture through the gateway, as its users ask for one, before a release counts as served."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable

from atelier.errors import Refused, Unavailable
from atelier.release import Release

Smoke = Callable[[Release], None]  # raises where no picture comes, or one of another version

STEPS, SECONDS = 1, 120.0
_TEXT = 500  # characters of an answer that are told
_LATER = (429, 502, 503, 504)


def gateway_smoke(url: str, key: str) -> Smoke:
    """Asks the gateway at `url`; Unavailable where it may succeed later, else Refused."""

    def smoke(release: Release) -> None:
        label = f"{release.adapter}@{release.version}"
        # where a canary takes a share, a call without a version may be the canary's
        adapter = label if release.canary else release.adapter
        body = {"prompt": "smoke check", "adapter": adapter, "steps": STEPS, "seed": 0}
        request = urllib.request.Request(
            f"{url.rstrip('/')}/generate_image",
            data=json.dumps(body).encode(),
            headers={"X-API-Key": key, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")[:_TEXT]
            kind = Unavailable if error.code in _LATER else Refused
            raise kind(f"the picture of {label}: the gateway says {error.code}: {text}") from error
        except (OSError, ValueError) as error:
            raise Unavailable(f"the picture of {label}: {url} does not answer: {error}") from error
        made = {one["digest"] for one in found["adapters"]}
        if made != {release.digest}:
            raise Refused(f"the picture of {label} was made by {sorted(made)}")

    return smoke
