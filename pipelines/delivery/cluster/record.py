"""Write the serving release of a cluster into git's declarations."""

from collections.abc import Iterable

from atelier.data.declaration import Declaration, Withdrawn, reason_of
from atelier.data.release import Pin, Release
from pipelines.delivery.cluster.releases import AdapterReleases, PromotionOutcome, label_of


def record(releases: AdapterReleases, name: str, *, reason: str) -> PromotionOutcome:
    """Declare the serving release in git, and mark a failed declared version as withdrawn."""
    return write_record(releases, name, left=None, reason=reason_of(reason))


def write_record(
    releases: AdapterReleases, name: str, *, left: Release | None, reason: str
) -> PromotionOutcome:
    """Do the same as `record`; `left` is the release that was rolled back, if there is one."""
    live, history = releases.live(name), releases.history(name)
    declared = releases.declarations.find(name)
    if live is None:
        releases.declarations.remove(name)
        message = f"{name}: no release; its declaration is removed"
        return PromotionOutcome(name, message, None, None)
    tried = [pin for entry in history for pin in entry.release.served]
    newest = history[-1].number if history else 0
    releases.declarations.put(recorded(live, declared, left, tried, newest, reason))
    file = releases.declarations.path(name)
    message = f"{label_of(live)} serves in {releases.environment}; commit {file}"
    return PromotionOutcome(name, message, live, newest or None)


def recorded(
    live: Release,
    declared: Declaration | None,
    left: Release | None,
    tried: Iterable[Pin],
    revision: int,
    reason: str,
) -> Declaration:
    """Return the declaration of the live release.

    The versions of `left` are withdrawn. The `declared` versions are withdrawn too if the cluster
    `tried` them; a version that has not been promoted yet is not withdrawn.
    """
    serves = {pin.digest for pin in live.served}
    tried_digests = {pin.digest for pin in tried}
    before = [
        *(left.served if left else ()),
        *(pin for pin in (declared.served if declared else ()) if pin.digest in tried_digests),
    ]
    gone = {pin.digest: pin for pin in before if pin.digest not in serves}
    withdrawn = [
        Withdrawn(version=pin.version, digest=pin.digest, reason=reason) for pin in gone.values()
    ]
    earlier = declared.withdrawn if declared else ()
    withdrawn += [pin for pin in earlier if pin.digest not in serves and pin.digest not in gone]
    replaced = left.pin if left else declared.pin if declared else None
    return Declaration(
        adapter=live.adapter,
        version=live.version,
        digest=live.digest,
        base=live.base,
        vae=live.vae,
        canary=live.canary,
        replaces=replaced if replaced != live.pin else (declared.replaces if declared else None),
        withdrawn=tuple(withdrawn),
        revision=revision,
        reason=reason,
    )
