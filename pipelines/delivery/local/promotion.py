"""Promotion and the ways back: which version of an adapter serves on this machine.

A promotion is one that the registry's verdict, worked out again under this environment's policy,
allows. It writes the release, waits until every live replica and gateway answers by it, makes a
smoke picture, and only then moves the environment's alias (see settle.py, which also finishes or
takes back what was killed in between). Going back needs nobody: not the registry, not a verdict.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from atelier.contract.replica import Replica, ReplicaFolder, drawn_with
from atelier.data.policy import Policy
from atelier.data.release import Canary, Pin, Release, ReleaseFolder
from atelier.errors import BadInput, Refused
from atelier.home import Home
from atelier.stores.registry import Registry, VersionInfo
from pipelines.delivery.local.journal import JournalEntry, PromotionJournal
from pipelines.delivery.local.reconciler import (
    ENVIRONMENT,
    PromotionStatus,
    Reconciler,
    Smoke,
    reconcile,
)
from pipelines.evaluate import Evaluation, judged_version, verdict

__all__ = ["PromotionStatus", "Smoke", "promote", "reconcile", "retire", "rollback"]

WAIT: Final = 60.0  # seconds for replicas to fetch, verify and load a package, gateways to follow
LOOK: Final = 0.1  # seconds between two looks at the replicas' reports


def promote(
    name: str,
    version: int,
    *,
    registry: Registry,
    home: Home,
    policy: Policy,
    canary: int | None = None,
    smoke: Smoke | None = None,
    wait: float = WAIT,
    reason: str = "promoted",
    environment: str = ENVIRONMENT,
) -> PromotionStatus:
    """Let a version serve, wholly or to `canary` percent; Refused, and taken back, if it cannot.

    Without a live replica the release is written and stands as pending: replicas load it when they
    start, and `settle` moves the alias then.
    """
    info = registry.version(name, version)
    evaluation = approved(registry, info, policy)
    live = _require_served(home, f"{name}@{version}", evaluation.base, evaluation.vae)
    pin = Pin(version=info.version, digest=info.digest)
    settler = Reconciler(name, home, registry, smoke=smoke, environment=environment)
    with PromotionJournal(home).worked_on(name):
        _write(home, name, pin, evaluation, canary, reason)
        standing = _wait(settler, wait)
        serves = standing.version == version if canary is None else standing.state != "restored"
        if standing.state == "restored" or not serves:
            raise Refused(standing.message)
        if standing.retry:
            raise Refused(_take_back(settler, pin, f"{standing.message} after {wait:g} s").message)
    return replace(standing, message=standing.message + _other_engines(live, evaluation))


def approved(registry: Registry, info: VersionInfo, policy: Policy) -> Evaluation:
    """The version's evaluation, its verdict worked out again under `policy`; else Refused."""
    how = "run `atelier evaluate` on its package first"
    evaluation = judged_version(registry, info, policy.digest, how=how)
    said = verdict(evaluation, policy)
    if not said.accepted:
        raise Refused(
            f"{info.name}@{info.version} is refused by the policy:\n- " + "\n- ".join(said.reasons)
        )
    return evaluation


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

    The release is written first and never taken back; Refused before that where the version was
    judged on another base or VAE than the live replicas serve. With the registry away it moves all
    the same, and the answer says that the alias is still to follow.
    """
    releases, intents = ReleaseFolder(home.releases), PromotionJournal(home)
    settler = Reconciler(name, home, registry, smoke=smoke, environment=environment)
    with intents.worked_on(name):
        with intents.locked(name):
            back = _released(releases, name).rolled_back(revision, reason)
            _require_served(home, f"{name}@{back.version}", back.base, back.vae)
            releases.put(back)
            intents.remove(name)  # whatever was under way has been overtaken
        return _wait(settler, wait)


def retire(
    name: str,
    *,
    registry: Registry | None,
    home: Home,
    wait: float = WAIT,
    environment: str = ENVIRONMENT,
) -> PromotionStatus:
    """Stop serving an adapter, and wait until nothing answers by it; its versions stay."""
    releases, intents = ReleaseFolder(home.releases), PromotionJournal(home)
    settler = Reconciler(name, home, registry, environment=environment)
    with intents.worked_on(name):
        with intents.locked(name):
            _released(releases, name)
            intents.put(JournalEntry(adapter=name, doing="retire"))
            releases.remove(name)
        return _wait(settler, wait)


def _released(releases: ReleaseFolder, name: str) -> Release:
    release = releases.get(name)
    if release is None:
        served = ", ".join(releases.list()) or "none"
        raise BadInput(f"{name}: is not served here; served are: {served}")
    return release


def _require_served(home: Home, label: str, base: str, vae: str | None) -> Sequence[Replica]:
    """The live replicas that draw as it was judged; Refused where there are only others.

    Base and VAE decide what a picture is of; a version for others would wait for ever.
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
    """A remark, no refusal, where precision, device, backend or a library's version differ.

    A verdict drawn on a GPU may let an adapter serve on another: what differs then is rounding, and
    the engine's tests hold every backend to the same pictures within a tolerance.
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
    """The intent, then the release. Nothing where the release says it already."""
    releases, intents = ReleaseFolder(home.releases), PromotionJournal(home)
    base, vae = evaluation.base, evaluation.vae
    with intents.locked(name):
        before = releases.get(name)
        same_drawing = before is not None and (before.base, before.vae) == (base, vae)
        intent = JournalEntry(
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
        intents.put(intent)
        releases.put(after)


def _wait(settler: Reconciler, seconds: float) -> PromotionStatus:
    """Settle until nothing more can be expected, or until the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        standing = settler.run()
        if not standing.retry or time.monotonic() >= deadline:
            return standing
        time.sleep(LOOK)


def _take_back(settler: Reconciler, pin: Pin, why: str) -> PromotionStatus:
    """End a promotion that took too long, unless it came through or was overtaken meanwhile."""
    release, intent = settler.releases.get(settler.name), settler.intents.get(settler.name)
    if release is not None and intent is not None and intent.digest == pin.digest:
        settler.restore(release, intent, why)
    return settler.run()
