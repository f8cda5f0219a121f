"""Roll an adapter back on a cluster, and withdraw the version that is rolled back."""

from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import Final

from atelier.data.declaration import Declaration, reason_of
from atelier.data.release import Release
from atelier.errors import BadInput, Refused
from atelier.platform import ClusterAway
from atelier.platform.helm import HelmRefused, Revision, back_to
from pipelines.delivery.cluster.helm_values import served_bases
from pipelines.delivery.cluster.record import write_record
from pipelines.delivery.cluster.releases import (
    PLATFORM,
    AdapterReleases,
    PromotionOutcome,
    RevisionRelease,
)

OVERTAKE_WAIT: Final = (
    1800.0  # seconds that a rollback waits for a promotion: longer than Helm's timeout
)


def roll_back(
    releases: AdapterReleases,
    name: str,
    revision: int | None = None,
    *,
    reason: str,
    canary: str | None = None,
) -> PromotionOutcome:
    """Serve a past revision, by default the last good one, and update the declaration.

    The rollback ends a canary, undoes an interrupted promotion, finishes an interrupted rollback,
    and waits for a running promotion. It does not call MLflow. `canary` is a digest: raises Refused
    if it is not the canary, so that a canary that was promoted meanwhile is not rolled back.
    """
    reason = reason_of(reason)  # first, because an invalid reason cannot be recorded in git
    with releases.locked(name, wait=OVERTAKE_WAIT) as lock:
        if canary is not None:
            _require_canary(releases, name, canary)
        interrupted = releases.recover(name)
        history = releases.history(name)
        if not history:
            raise BadInput(
                f"{name}: has no Helm release in {releases.api.namespace}; check the name and "
                "--environment"
            )
        left = rolled_back_release(history, releases.readable(name), interrupted)
        declared = releases.declarations.find(name)
        target = rollback_target(
            name,
            history,
            left,
            withdrawn=[version.digest for version in declared.withdrawn] if declared else [],
            bases=served_bases(releases.helm.values(PLATFORM, all_=True)),
            revision=revision,
        )
        lock.require()
        releases.report(f"{name}: roll back")
        failed: HelmRefused | ClusterAway | None = None
        try:
            releases.helm.rollback(name, target.number, back_to(target.number, reason))
        except (HelmRefused, ClusterAway) as error:  # the ConfigMap is written before any hook
            failed = error  # Helm leaves the rollback pending; the next command recovers it
        outcome = write_record(releases, name, left=left, reason=reason)
        if isinstance(failed, HelmRefused):
            why = releases.reason(name, failed)
            raise Refused(f"{outcome.message}, but Helm reports a failure: {why}")
        if failed is not None:
            raise failed
        return outcome


def _require_canary(releases: AdapterReleases, name: str, digest: str) -> None:
    live = releases.live(name)
    if live is None or live.canary is None or live.canary.digest != digest:
        raise Refused(f"{name}: {digest} is no longer the canary; nothing was changed")


def serve_the_same(release: Release | None, other: Release | None) -> bool:
    """Return whether both releases exist and serve the same versions to the same shares."""
    return release is not None and other is not None and release.served == other.served


def rolled_back_release(
    history: Sequence[RevisionRelease], live: Release | None, interrupted: Revision | None
) -> Release | None:
    """Return the release that a rollback withdraws, None if it only undoes an unapplied promotion.

    `history` does not contain `interrupted`, the revision that a killed Helm left pending. `live`
    is the release in the ConfigMap, None if there is none or it cannot be read. An interrupted
    rollback may have written its ConfigMap already, so the release before it is the one to
    withdraw. If a promotion was interrupted before it wrote its ConfigMap, nothing is withdrawn.
    """
    last = history[-1].release if history else None
    if interrupted is None:
        return live or last
    if interrupted.status == "pending-rollback":
        return last
    return None if serve_the_same(live, last) else live


def unrecorded_rollback(
    history: Sequence[RevisionRelease], declared: Declaration
) -> Revision | None:
    """Return the newest revision if it rolled declared versions back, unrecorded in git.

    Interrupted rollbacks count: somebody wanted to stop serving the version. Other interrupted
    revisions are ignored, because the next command removes them.
    """

    def is_unrecorded(entry: RevisionRelease) -> bool:
        return entry.revision.went_back and entry.number > declared.revision

    effective = [
        entry for entry in history if entry.revision.went_back or not entry.revision.pending
    ]
    rollbacks = list(takewhile(is_unrecorded, reversed(effective)))
    if not rollbacks:
        return None
    before = effective[-len(rollbacks) - 1 : -1]
    left = {pin.digest for entry in before for pin in entry.release.served}
    left -= {pin.digest for pin in effective[-1].release.served}
    return effective[-1].revision if left & {pin.digest for pin in declared.served} else None


def rollback_target(
    name: str,
    history: Sequence[RevisionRelease],
    left: Release | None,
    *,
    withdrawn: Collection[str],  # digests
    bases: Collection[tuple[str, str | None]],  # base and VAE of the platform's pools
    revision: int | None = None,
) -> RevisionRelease:
    """Return the revision to roll back to: the requested one, else the newest suitable one.

    A suitable revision served, has a base and VAE of the platform, and names neither the version
    that is rolled back nor a withdrawn one. If `left` has a canary, only the canary is rolled back.
    Raises BadInput if the requested revision never served, Refused if no revision is suitable.
    """
    served = [entry for entry in reversed(history) if entry.revision.served]
    fitting = [entry for entry in served if (entry.release.base, entry.release.vae) in bases]
    if revision is not None:
        requested = next((entry for entry in served if entry.number == revision), None)
        if requested is None:
            numbers = ", ".join(str(entry.number) for entry in served) or "none"
            raise BadInput(
                f"{name}: has no revision {revision} that served; the revisions that served are "
                f"{numbers}"
            )
        if requested not in fitting:
            raise Refused(
                f"{name}: revision {revision} needs a base or VAE that the platform does not "
                "serve; choose another revision"
            )
        return requested
    bad = set(withdrawn)
    if left is not None:
        bad.add(left.canary.digest if left.canary else left.digest)
    for entry in fitting:
        if not {pin.digest for pin in entry.release.served} & bad:
            return entry
    numbers = ", ".join(str(entry.number) for entry in fitting)
    choice = f"choose one of the revisions {numbers}, or " if numbers else ""
    raise Refused(
        f"{name}: none of its {len(history)} revisions is suitable: each never served, has the "
        "version to roll back or a withdrawn one, or needs a base or VAE that is not served; "
        f"{choice}stop serving the adapter with `atelier retire {name}`"
    )
