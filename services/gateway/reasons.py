"""Why a released version does not serve yet, in terms that concern a client.

The replicas' own words name addresses and files: they are for the operator, and in the log
(`releases.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from atelier.contract.replica import HeldAdapter, Replica
from atelier.data.release import Release
from services.gateway.routing import why_not_served


def reason_for_clients(release: Release, replicas: Sequence[Replica]) -> str:
    """One short sentence about the release's own version on the live `replicas`."""
    live = [one for one in replicas if one.live()]
    if not live:
        return "no replica has reported for some seconds"
    fitting = [one for one in live if release.fits(one)]
    return why_not_served(release, live, fitting, _for_clients)


def _for_clients(_: Replica, held: HeldAdapter | None) -> str:
    if held is None or not (held.error or held.state == "failed"):
        return "not loaded yet"
    if held.state == "loading":
        return "it could not be fetched from the registry yet"
    return "it cannot be used; the operator's log has the cause"
