"""The smoke test of a local promotion, through the gateway that `atelier serve` runs."""

import json
from collections.abc import Sequence

from atelier.data.release import Pin, Release
from atelier.errors import Unavailable
from atelier.home import Home
from pipelines.delivery.smoke import Smoke, gateway_smoke
from pipelines.evaluate.attestations import JudgedImage


def smoke_check(home: Home) -> Smoke | None:
    """Draws through this home's gateway; None where nothing serves here.

    Where `serve` runs without a gateway, the result raises Unavailable at each call.
    """
    try:
        note = json.loads(home.serve_note.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if "gateway" not in note:
        return _no_gateway
    return gateway_smoke(str(note["gateway"]), str(note["smoke_key"]))


def _no_gateway(release: Release, pin: Pin, _: Sequence[JudgedImage]) -> str:
    raise Unavailable(
        f"no image of {release.adapter}@{pin.version} can be drawn: `atelier serve` runs without a "
        "gateway here; start it with one"
    )
