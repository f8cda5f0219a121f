"""Promotion, rollback and retirement on this machine.

A promotion needs an accepted verdict and, if the environment requires it, a good signature. It
writes the release, waits until every live replica and gateway serves it, runs the smoke test, and
then moves the environment's alias. If a promotion is killed, the reconciler finishes or reverts
it. A rollback needs no registry and no verdict.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from atelier.adapter.signature_policy import SignaturePolicy
from atelier.contract.replica import Replica, ReplicaFolder, base_label
from atelier.data.policy import Policy
from atelier.data.release import Canary, Pin, Release, ReleaseFolder
from atelier.errors import BadInput, Refused, Unavailable
from atelier.home import Home
from atelier.stores.registry import Registry
from pipelines.delivery.alias import JournalEntry
from pipelines.delivery.approval import CanaryTrial, approve
from pipelines.delivery.local.journal import PromotionJournal
from pipelines.delivery.local.reconciler import ENVIRONMENT, PromotionStatus, Reconciler
from pipelines.delivery.smoke import Smoke
from pipelines.evaluate import Evaluation

WAIT: Final = 60.0  # seconds until replicas have loaded a package and gateways route to it
UNSIGNED: Final = SignaturePolicy()  # requires no signature
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
    """Make a version serve all requests, or `canary` percent of them.

    If it cannot serve within `wait` seconds, restore the previous release and raise Refused.
    Without a live replica, the release is written and stays pending: replicas load it when they
    start, and then the reconciler moves the alias.
    """
    info = registry.version(name, version)
    before = ReleaseFolder(home.releases).get(name) if policy.live and canary is None else None
    trial = CanaryTrial.of(before, info.digest, environment)
    approval = approve(registry, info, policy, signatures, trial=trial)
    evaluation = approval.evaluation
    live = _require_served(home, f"{name}@{version}", evaluation.base, evaluation.vae)
    pin = Pin(version=info.version, digest=info.digest)
    reconciler = Reconciler(name, home, registry, smoke=smoke, environment=environment)
    with PromotionJournal(home).command_running(name):
        _write(home, name, pin, evaluation, canary, reason)
        status = _wait(reconciler, wait)
        serves = status.version == version if canary is None else status.state != "restored"
        if status.state == "restored" or not serves:
            raise Refused(status.message)
        if status.retry:
            raise Refused(_revert(reconciler, pin, f"{status.message} after {wait:g} s").message)
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
    """Serve a past revision, by default the last good one, and move the alias.

    Without a revision, a canary ends and the serving version stays.

    The release is written first and is never reverted. If the registry is unavailable, the release
    changes nevertheless, and the alias moves later. Raises Refused, before any change, if the
    version was evaluated on another base or VAE than those of the live replicas.
    """
    releases, journal = ReleaseFolder(home.releases), PromotionJournal(home)
    reconciler = Reconciler(name, home, registry, smoke=smoke, environment=environment)
    with journal.command_running(name):
        with journal.locked(name):
            release = _released(releases, name).rolled_back(revision, reason)
            _require_served(home, f"{name}@{release.version}", release.base, release.vae)
            releases.put(release)
            journal.remove(name)  # the rollback replaces any unfinished promotion
        return _wait(reconciler, wait)


def end_canary(
    name: str,
    digest: str,
    *,
    registry: Registry | None,
    home: Home,
    wait: float = WAIT,
    reason: str,
    environment: str = ENVIRONMENT,
) -> PromotionStatus:
    """Remove the canary with this digest from the release; the serving version stays.

    Raises Refused if it is no longer the canary: meanwhile it may serve every request.
    """
    releases, journal = ReleaseFolder(home.releases), PromotionJournal(home)
    reconciler = Reconciler(name, home, registry, environment=environment)
    with journal.command_running(name):
        with journal.locked(name):
            release = _released(releases, name)
            if release.canary is None or release.canary.digest != digest:
                raise Refused(f"{name}: {digest} is no longer the canary; nothing was changed")
            releases.put(release.with_canary(None, reason))
            journal.remove(name)  # an unfinished promotion of the canary
        return _wait(reconciler, wait)


def retire(
    name: str,
    *,
    registry: Registry | None,
    home: Home,
    wait: float = WAIT,
    environment: str = ENVIRONMENT,
) -> PromotionStatus:
    """Stop serving an adapter, and wait until no process serves it; its versions stay in MLflow."""
    releases, journal = ReleaseFolder(home.releases), PromotionJournal(home)
    reconciler = Reconciler(name, home, registry, environment=environment)
    with journal.command_running(name):
        with journal.locked(name):
            _released(releases, name)
            journal.put(JournalEntry(adapter=name, doing="retire"))
            releases.remove(name)
        return _wait(reconciler, wait)


def available_registry(home: Home) -> Registry | None:
    """Return the registry, None if it is unavailable: a rollback must not wait for it."""
    try:
        return Registry(home.tracking_uri)
    except Unavailable:
        return None


def _released(releases: ReleaseFolder, name: str) -> Release:
    release = releases.get(name)
    if release is None:
        served = ", ".join(releases.list()) or "none"
        raise BadInput(f"{name}: is not served here; the served adapters are: {served}")
    return release


def _require_served(home: Home, label: str, base: str, vae: str | None) -> Sequence[Replica]:
    """Return the live replicas with this base and VAE.

    Raises Refused if replicas are live but none fits: the promotion would wait until its timeout.
    """
    live = ReplicaFolder(home.replicas).live()
    fitting = [replica for replica in live if (replica.base, replica.vae) == (base, vae)]
    if live and not fitting:
        served = base_label(live[0].base, live[0].vae)
        raise Refused(
            f"{label}: evaluated on {base_label(base, vae)}, but {live[0].replica} serves "
            f"{served}; serve the base and VAE of the evaluation (`atelier serve` has "
            "--base, --revision and --vae), or train and evaluate the adapter on that base"
        )
    return fitting


def _other_engines(live: Sequence[Replica], evaluation: Evaluation) -> str:
    """Return a remark if the backend, precision, device or a library version differs.

    This is no error. An adapter that was evaluated on one GPU may serve on another: only rounding
    differs, and the engine's tests compare the images of all backends within a tolerance.
    """
    others = [replica for replica in live if replica.engine_digest != evaluation.engine_digest]
    if not others:
        return ""
    engines = ", ".join(
        f"{replica.replica} ({replica.backend} {replica.engine_digest})" for replica in others
    )
    return (
        f"; evaluated on another engine ({evaluation.backend} {evaluation.engine_digest}) than "
        f"{engines}: same base and VAE, other backend, precision, device or library version"
    )


def _write(
    home: Home, name: str, pin: Pin, evaluation: Evaluation, canary: int | None, reason: str
) -> None:
    """Write the journal entry, then the release. Write neither if only `pin` serves already."""
    releases, journal = ReleaseFolder(home.releases), PromotionJournal(home)
    base, vae = evaluation.base, evaluation.vae
    with journal.locked(name):
        before = releases.get(name)
        same_base = before is not None and (before.base, before.vae) == (base, vae)
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
                raise BadInput(
                    f"{name}: version {pin.version} serves already; name another version"
                )
            if not same_base:
                raise Refused(
                    f"{name}@{pin.version}: evaluated on {base_label(base, vae)}, but version "
                    f"{before.version} was evaluated on {base_label(before.base, before.vae)}; "
                    f"evaluate the canary on the base and VAE of version {before.version}"
                )
            share = Canary(version=pin.version, digest=pin.digest, percent=canary)
            after = before.with_canary(share, reason)
        elif before is None:
            after = Release(adapter=name, base=base, vae=vae, reason=reason, **pin.model_dump())
        elif before.pin == pin and before.canary is None and same_base:
            return
        else:
            after = before.with_version(pin, reason, base=base, vae=vae)
        journal.put(entry)
        releases.put(after)


def _wait(reconciler: Reconciler, seconds: float) -> PromotionStatus:
    """Reconcile until the status is final, or until the timeout."""
    deadline = time.monotonic() + seconds
    while True:
        status = reconciler.run()
        if not status.retry or time.monotonic() >= deadline:
            return status
        time.sleep(LOOK)


def _revert(reconciler: Reconciler, pin: Pin, why: str) -> PromotionStatus:
    """Revert a promotion that timed out, unless it has succeeded or was replaced meanwhile."""
    release, entry = (
        reconciler.releases.get(reconciler.name),
        reconciler.journal.get(reconciler.name),
    )
    if release is not None and entry is not None and entry.digest == pin.digest:
        reconciler.restore(release, entry, why)
    return reconciler.run()
