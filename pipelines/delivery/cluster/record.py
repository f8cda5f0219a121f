"""Writes into git's files which release a cluster serves."""

from collections.abc import Iterable

from atelier.data.declaration import Declaration, Withdrawn, reason_of
from atelier.data.release import Pin, Release
from pipelines.delivery.cluster.releases import AdapterReleases, PromotionOutcome, label_of


def record(releases: AdapterReleases, name: str, *, reason: str) -> PromotionOutcome:
    """Let git declare what the cluster serves; a version that was tried instead is withdrawn."""
    return write_record(releases, name, left=None, reason=reason_of(reason))


def write_record(
    releases: AdapterReleases, name: str, *, left: Release | None, reason: str
) -> PromotionOutcome:
    """As `record`; `left` is the release that served until now, where that is known."""
    live, history = releases.live(name), releases.history(name)
    declared = releases.declarations.find(name)
    if live is None:
        releases.declarations.remove(name)
        message = f"{name}: nothing is released; git declares nothing"
        return PromotionOutcome(name, message, None, None)
    tried = [pin for one in history for pin in one.release.served]
    newest = history[-1].number if history else 0
    releases.declarations.put(recorded(live, declared, left, tried, newest, reason))
    file = releases.declarations.path(name)
    message = f"{label_of(live)} serves in {releases.environment}; commit {file}"
    return PromotionOutcome(name, message, live, newest or None)


def recorded(
    live: Release,
    said: Declaration | None,
    left: Release | None,
    tried: Iterable[Pin],
    revision: int,
    reason: str,
) -> Declaration:
    """The live release as a declaration.

    The versions of `left` are withdrawn. So are those that git `said` if the cluster `tried` them:
    a version that only waited for its promotion has done nothing wrong.
    """
    serves = {pin.digest for pin in live.served}
    known = {pin.digest for pin in tried}
    before = [
        *(left.served if left else ()),
        *(pin for pin in (said.served if said else ()) if pin.digest in known),
    ]
    gone = {pin.digest: pin for pin in before if pin.digest not in serves}
    withdrawn = [
        Withdrawn(version=pin.version, digest=pin.digest, reason=reason) for pin in gone.values()
    ]
    kept = said.withdrawn if said else ()
    withdrawn += [one for one in kept if one.digest not in serves and one.digest not in gone]
    replaced = left.pin if left else said.pin if said else None
    return Declaration(
        adapter=live.adapter,
        version=live.version,
        digest=live.digest,
        base=live.base,
        vae=live.vae,
        canary=live.canary,
        replaces=replaced if replaced != live.pin else (said.replaces if said else None),
        withdrawn=tuple(withdrawn),
        revision=revision,
        reason=reason,
    )
