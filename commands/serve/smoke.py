"""A picture through the running Triton before a promotion counts as done."""

import asyncio
import json
from collections.abc import Callable

from atelier.home import Home

STEPS, SECONDS = 1, 60.0


def smoke_check(home: Home) -> Callable[[str, int], None] | None:
    """Draws by name and version, raising where it cannot; None where nothing serves here.

    `atelier serve` leaves its addresses in the home for as long as it runs.
    """
    note = home.root / "serve.json"
    try:
        address = str(json.loads(note.read_bytes())["triton_grpc"])
    except (FileNotFoundError, ValueError, KeyError):
        return None

    def smoke(name: str, version: int) -> None:
        asyncio.run(_draw(address, name, version))

    return smoke


async def _draw(address: str, name: str, version: int) -> None:
    from services.gateway.triton_client import AdapterCall, ImageCall, TritonClient

    call = ImageCall(
        prompt="smoke check",
        negative_prompt=None,
        adapters=(AdapterCall(name, version, 1.0),),
        scheduler="euler",
        seed=0,
        steps=STEPS,
        width=None,
        height=None,
        images=1,
        guidance_scale=1.0,
    )
    client = TritonClient(address, "atelier")
    try:
        await client.generate(call, timeout=SECONDS, request_id="smoke")
    finally:
        await client.close()
