"""Give clients the reason why a released version does not serve yet.

The errors in the replicas' reports name addresses and files, so clients do not see them.
`releases.py` writes them to the log for the operator.
"""

from __future__ import annotations

from collections.abc import Sequence

from atelier.contract.replica import HeldAdapter, Replica
from atelier.data.release import Release
from services.gateway.routing import NO_REPORT, why_not_served


def reason_for_clients(release: Release, replicas: Sequence[Replica]) -> str:
    """Return the reason why the live ones of `replicas` do not serve the release's version."""
    live = [replica for replica in replicas if replica.live()]
    if not live:
        return NO_REPORT
    fitting = [replica for replica in live if release.fits(replica)]
    return why_not_served(release, live, fitting, _for_clients)


def _for_clients(_: Replica, held: HeldAdapter | None) -> str:
    if held is None or not (held.error or held.state == "failed"):
        return "not loaded yet"
    if held.state == "loading":
        return "not fetched from the registry yet; the operator's log has the cause"
    return "cannot be loaded; the operator's log has the cause"
