"""Promotion, rollback and retirement on this machine.

A promotion needs an accepted verdict and, where the environment asks for it, a good signature. It
writes the release, waits until every live replica and gateway answers by it, has judged images
drawn again through the gateway, and only then moves the environment's alias. The reconciler
finishes or restores a promotion that was killed in between. A rollback depends on nothing: no
registry, no verdict.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from atelier.adapter.signature_policy import SignaturePolicy
from atelier.contract.replica import Replica, ReplicaFolder, drawn_with
from atelier.data.policy import Policy
from atelier.data.release import Canary, Pin, Release, ReleaseFolder
from atelier.errors import BadInput, Refused, Unavailable
from atelier.home import Home
from atelier.stores.registry import Registry
from pipelines.delivery.alias import JournalEntry
from pipelines.delivery.approval import approve
from pipelines.delivery.local.journal import PromotionJournal
from pipelines.delivery.local.reconciler import ENVIRONMENT, PromotionStatus, Reconciler
from pipelines.delivery.smoke import Smoke
from pipelines.evaluate import Evaluation

WAIT: Final = 60.0  # seconds for replicas to fetch, verify and load a package, gateways to follow
UNSIGNED: Final = SignaturePolicy()  # asks for no signature
LOOK: Final = 0.1  # seconds between two readings of the replicas' reports


def promote(
    name: str,
    version: int,
    *,
    registry: Registry,
    home: Home,
    policy: Policy,
    signatures: SignaturePolicy = UNSIGNED,
    canary: int | None = None,
    smoke: Smoke | None = None,
    wait: float = WAIT,
    reason: str = "promoted",
    environment: str = ENVIRONMENT,
) -> PromotionStatus:
    """Let a version serve, wholly or to `canary` percent; Refused, and restored, if it cannot.

    Without a live replica the release is written and stays pending: replicas load it when they
    start, and the reconciler moves the alias then.
    """
    approval = approve(registry, registry.version(name, version), policy, signatures)
    info, evaluation = approval.version, approval.evaluation
    live = _require_served(home, f"{name}@{version}", evaluation.base, evaluation.vae)
    pin = Pin(version=info.version, digest=info.digest)
    reconciler = Reconciler(name, home, registry, smoke=smoke, environment=environment)
    with PromotionJournal(home).worked_on(name):
        _write(home, name, pin, evaluation, canary, reason)
        status = _wait(reconciler, wait)
        serves = status.version == version if canary is None else status.state != "restored"
        if status.state == "restored" or not serves:
            raise Refused(status.message)
        if status.retry:
            raise Refused(_take_back(reconciler, pin, f"{status.message} after {wait:g} s").message)
    warning = f"; {approval.warning}" if approval.warning else ""
    return replace(status, message=status.message + _other_engines(live, evaluation) + warning)


def rollback(
    name: str,
    revision: int | None = None,
    *,
    registry: Registry | None,
    home: Home,
    smoke: Smoke | None = None,
    wait: float = WAIT,
    reason: str = "rolled back",
    environment: str = ENVIRONMENT,
) -> PromotionStatus:
    """Serve what a past revision served, by default the last good one; the alias follows.

    The release is written first and is never restored. Refused before that where the version was
    judged on another base or VAE than the live replicas serve. With the registry away the release
    moves all the same, and the status says that the alias follows later.
    """
    releases, journal = ReleaseFolder(home.releases), PromotionJournal(home)
    reconciler = Reconciler(name, home, registry, smoke=smoke, environment=environment)
    with journal.worked_on(name):
        with journal.locked(name):
            back = _released(releases, name).rolled_back(revision, reason)
            _require_served(home, f"{name}@{back.version}", back.base, back.vae)
            releases.put(back)
            journal.remove(name)  # whatever was under way has been overtaken
        return _wait(reconciler, wait)


def retire(
    name: str,
    *,
    registry: Registry | None,
    home: Home,
    wait: float = WAIT,
    environment: str = ENVIRONMENT,
) -> PromotionStatus:
    """Stop serving an adapter, and wait until nothing answers by it; its versions stay."""
    releases, journal = ReleaseFolder(home.releases), PromotionJournal(home)
    reconciler = Reconciler(name, home, registry, environment=environment)
    with journal.worked_on(name):
        with journal.locked(name):
            _released(releases, name)
            journal.put(JournalEntry(adapter=name, doing="retire"))
            releases.remove(name)
        return _wait(reconciler, wait)


def available_registry(home: Home) -> Registry | None:
    """The registry, or None where it is away: a rollback must not wait for it."""
    try:
        return Registry(home.tracking_uri)
    except Unavailable:
        return None


def _released(releases: ReleaseFolder, name: str) -> Release:
    release = releases.get(name)
    if release is None:
        served = ", ".join(releases.list()) or "none"
        raise BadInput(f"{name}: is not served here; served are: {served}")
    return release


def _require_served(home: Home, label: str, base: str, vae: str | None) -> Sequence[Replica]:
    """The live replicas with the base and VAE of the verdict; Refused where there are only others.

    A version for another base would wait for ever.
    """
    live = ReplicaFolder(home.replicas).live()
    fit = [one for one in live if (one.base, one.vae) == (base, vae)]
    if live and not fit:
        served = drawn_with(live[0].base, live[0].vae)
        raise Refused(
            f"{label}: judged on {drawn_with(base, vae)}, but {live[0].replica} serves {served}; "
            "serve what it was judged on (`atelier serve` has --base, --revision and --vae), "
            "or train and judge it on what is served"
        )
    return fit


def _other_engines(live: Sequence[Replica], evaluation: Evaluation) -> str:
    """A remark where precision, device, backend or a library's version differ; it refuses nothing.

    A verdict drawn on one GPU may let an adapter serve on another. The difference is rounding: the
    engine's tests hold every backend to the same images within a tolerance.
    """
    others = [one for one in live if one.engine_digest != evaluation.engine_digest]
    if not others:
        return ""
    where = ", ".join(f"{one.replica} ({one.backend} {one.engine_digest})" for one in others)
    return (
        f"; judged by another engine ({evaluation.backend} {evaluation.engine_digest}) than that "
        f"of {where}: the same base and VAE, another backend, precision, device or library version"
    )


def _write(
    home: Home, name: str, pin: Pin, evaluation: Evaluation, canary: int | None, reason: str
) -> None:
    """Write the journal entry, then the release; nothing where the release has it already."""
    releases, journal = ReleaseFolder(home.releases), PromotionJournal(home)
    base, vae = evaluation.base, evaluation.vae
    with journal.locked(name):
        before = releases.get(name)
        same_drawing = before is not None and (before.base, before.vae) == (base, vae)
        entry = JournalEntry(
            adapter=name,
            doing="promote" if canary is None else "canary",
            version=pin.version,
            digest=pin.digest,
            before=before.revision if before else None,
        )
        if canary is not None:
            if before is None:
                raise BadInput(f"{name}: a canary needs a version that serves; promote one first")
            if before.pin == pin:
                raise BadInput(f"{name}: version {pin.version} serves already; nothing to try out")
            if not same_drawing:
                raise Refused(
                    f"{name}@{pin.version}: judged on {drawn_with(base, vae)}, but version "
                    f"{before.version} on {drawn_with(before.base, before.vae)}; "
                    "one adapter's traffic cannot be shared by two"
                )
            share = Canary(version=pin.version, digest=pin.digest, percent=canary)
            after = before.with_canary(share, reason)
        elif before is None:
            after = Release(adapter=name, base=base, vae=vae, reason=reason, **pin.model_dump())
        elif before.pin == pin and before.canary is None and same_drawing:
            return
        else:
            after = before.with_version(pin, reason, base=base, vae=vae)
        journal.put(entry)
        releases.put(after)


def _wait(reconciler: Reconciler, seconds: float) -> PromotionStatus:
    """Reconcile until nothing more can be expected, or until the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        status = reconciler.run()
        if not status.retry or time.monotonic() >= deadline:
            return status
        time.sleep(LOOK)


def _take_back(reconciler: Reconciler, pin: Pin, why: str) -> PromotionStatus:
    """Restore a promotion that took too long, unless it succeeded or was overtaken meanwhile."""
    release, entry = (
        reconciler.releases.get(reconciler.name),
        reconciler.journal.get(reconciler.name),
    )
    if release is not None and entry is not None and entry.digest == pin.digest:
        reconciler.restore(release, entry, why)
    return reconciler.run()
