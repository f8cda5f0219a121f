"""Rolls an adapter back on a cluster: where it goes, what it leaves, and the way there."""

from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import Final

from atelier.data.declaration import Declaration, reason_of
from atelier.data.release import Release
from atelier.errors import BadInput, Refused
from atelier.platform import ClusterAway
from atelier.platform.helm import HelmRefused, Revision, back_to
from pipelines.delivery.cluster.helm_values import drawn_by
from pipelines.delivery.cluster.record import write_record
from pipelines.delivery.cluster.releases import (
    PLATFORM,
    AdapterReleases,
    PromotionOutcome,
    RevisionRelease,
)

OVERTAKE_WAIT: Final = 1800.0  # seconds that a rollback waits for a promotion: longer than Helm's


def roll_back(
    releases: AdapterReleases, name: str, revision: int | None = None, *, reason: str
) -> PromotionOutcome:
    """Serve what a past revision served, by default the last good one; git's file follows.

    It ends a canary where there is one, and finishes what a killed promotion or rollback began. It
    asks nothing of MLflow, and waits for a promotion that is under way.
    """
    reason = reason_of(reason)  # first of all: git has to be able to keep it
    with releases.locked(name, wait=OVERTAKE_WAIT) as lock:
        cut_off = releases.recover(name)
        history = releases.history(name)
        if not history:
            raise BadInput(f"{name}: has no Helm release in {releases.api.namespace}")
        left = left_behind(history, releases.readable(name), cut_off)
        declared = releases.declarations.find(name)
        back = target(
            name,
            history,
            left,
            withdrawn=[one.digest for one in declared.withdrawn] if declared else [],
            bases=drawn_by(releases.helm.values(PLATFORM, all_=True)),
            revision=revision,
        )
        lock.require()
        releases.report(f"{name}: roll back")
        failed: HelmRefused | ClusterAway | None = None
        try:
            releases.helm.rollback(name, back.number, back_to(back.number, reason))
        except (HelmRefused, ClusterAway) as error:  # the ConfigMap is written before any hook
            failed = error  # Helm leaves such a rollback pending: the next one recovers it
        outcome = write_record(releases, name, left=left, reason=reason)
        if isinstance(failed, HelmRefused):
            why = releases.reason(name, failed)
            raise Refused(f"{outcome.message}, but it is not well: {why}")
        if failed is not None:
            raise failed
        return outcome


def same(one: Release | None, other: Release | None) -> bool:
    """Whether both serve the same versions, to the same share."""
    return one is not None and other is not None and one.served == other.served


def left_behind(
    known: Sequence[RevisionRelease], live: Release | None, cut_off: Revision | None
) -> Release | None:
    """The release to leave; None where only an attempt of one ends.

    `known` is the history without `cut_off`, the revision that a killed Helm left pending. `live`
    is the ConfigMap, None where there is none or it cannot be read. A rollback that was cut off may
    have written its ConfigMap already: the release to leave is then the one before it. A promotion
    that was cut off before it wrote anything leaves nothing.
    """
    last = known[-1].release if known else None
    if cut_off is None:
        return live or last
    if cut_off.status == "pending-rollback":
        return last
    return None if same(live, last) else live


def unrecorded(known: Sequence[RevisionRelease], declared: Declaration) -> Revision | None:
    """The newest revision, where it went back from what git declares, and git has not heard of it.

    A rollback that was cut off counts, too: whoever began it wanted something to be gone. What was
    cut off beside that is passed over, as the next one takes it away.
    """

    def unheard(one: RevisionRelease) -> bool:
        return one.revision.went_back and one.number > declared.revision

    made = [one for one in known if one.revision.went_back or not one.revision.pending]
    ways = list(takewhile(unheard, reversed(made)))
    if not ways:
        return None
    left = {pin.digest for one in made[-len(ways) - 1 : -1] for pin in one.release.served}
    left -= {pin.digest for pin in made[-1].release.served}
    return made[-1].revision if left & {pin.digest for pin in declared.served} else None


def target(
    name: str,
    known: Sequence[RevisionRelease],
    left: Release | None,
    *,
    withdrawn: Collection[str],  # digests
    bases: Collection[tuple[str, str | None]],  # base and VAE that the platform draws with
    revision: int | None = None,
) -> RevisionRelease:
    """The revision to go back to: the one asked for, else the newest that served, is drawn with
    what the platform has, and names neither the version that is left nor one that was withdrawn.

    A canary that is left takes only itself along.
    """
    served = [one for one in reversed(known) if one.revision.served]
    fit = [one for one in served if (one.release.base, one.release.vae) in bases]
    if revision is not None:
        found = next((one for one in served if one.number == revision), None)
        if found is None:
            listed = ", ".join(str(one.number) for one in served) or "none"
            raise BadInput(f"{name}: has no revision {revision} that served; known are {listed}")
        if found not in fit:
            raise Refused(f"{name}: revision {revision} is for a base that the platform has not")
        return found
    bad = set(withdrawn)
    if left is not None:
        bad.add(left.canary.digest if left.canary else left.digest)
    for one in fit:
        if not {pin.digest for pin in one.release.served} & bad:
            return one
    raise Refused(
        f"{name}: none of its {len(known)} known revisions serves another version that fits the "
        "platform and was not withdrawn; name a revision, or `atelier retire` it"
    )
