"""Why a released version does not serve yet, in terms that concern a client.

The replicas' own words name addresses and files: they are for the operator, and in the log
(`releases.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from atelier.contract.replica import HeldAdapter, Replica, drawn_with
from atelier.data.release import Release


def reason_for_clients(release: Release, replicas: Sequence[Replica]) -> str:
    """One short sentence about the release's own version on the live `replicas`."""
    live = [one for one in replicas if one.live()]
    if not live:
        return "no replica has reported for some seconds"
    fitting = [one for one in live if release.fits(one)]
    if not fitting:
        served = drawn_with(live[0].base, live[0].vae)
        return f"it is for {drawn_with(release.base, release.vae)}; served is {served}"
    for one in fitting:
        held = one.holds(release.adapter, release.digest)
        if held is None or held.state != "ready":
            return f"version {release.version} on replica {one.replica}: {_reason(held)}"
    return f"the package of version {release.version} cannot be read"


def _reason(held: HeldAdapter | None) -> str:
    if held is None or not (held.error or held.state == "failed"):
        return "not loaded yet"
    if held.state == "loading":
        return "it could not be fetched from the registry yet"
    return "it cannot be used; the operator's log has the cause"
