"""Promote an adapter on a cluster. The process may be killed at any point.

`promote` makes the cluster serve the declared version: it runs `helm upgrade` for the adapter's
release. The release's hook waits until every replica and gateway serves the version, runs the smoke
test and moves the alias. A promotion that fails is reverted. If a promotion is killed, its lock
expires, and the next promotion removes the pending Helm revision and upgrades again. Replicas and
gateways read only ConfigMaps, each of which is a complete release.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from atelier.adapter.signature_policy import SignaturePolicy
from atelier.data.declaration import Declaration
from atelier.data.policy import Policy
from atelier.data.release import Pin, Release
from atelier.errors import Refused, Unavailable
from atelier.platform.helm import HelmRefused, Revision
from atelier.platform.lease_lock import HeldLease
from atelier.stores.registry import Registry, VersionInfo
from pipelines.delivery.approval import CanaryTrial, approve
from pipelines.delivery.cluster.helm_values import release_values, require_served
from pipelines.delivery.cluster.releases import (
    PLATFORM,
    AdapterReleases,
    PromotionOutcome,
    label_of,
)
from pipelines.delivery.cluster.rollback import unrecorded_rollback

STEPS: Final = ("check", "lock", "recover", "compare", "upgrade", "confirm")  # of a promotion

# Returns the version of an adapter if it may serve, else raises Refused.
Approve = Callable[[Registry, str, int], VersionInfo]


def approval_by_policy(releases: AdapterReleases, policy: Path | None = None) -> Approve:
    """Return the approval by verdict and signature under the environment's policies.

    `policy` replaces its policy.yaml. A warning about a signature is reported.
    """
    declarations = releases.declarations

    def check(registry: Registry, name: str, version: int) -> VersionInfo:
        info = registry.version(name, version)
        approval = approve(
            registry,
            info,
            Policy.load(policy or declarations.policy),
            SignaturePolicy.of_platform(declarations.platform),
            trial=trial_of(releases, info),
        )
        if approval.warning:
            releases.report(approval.warning)
        return approval.version

    return check


def trial_of(releases: AdapterReleases, version: VersionInfo) -> CanaryTrial | None:
    """Return the trial that the declaration ends: its canary becomes the declared version."""
    declared = releases.declarations.find(version.name)
    if declared is None or declared.digest != version.digest:
        return None
    live = releases.readable(version.name)
    return CanaryTrial.of(live, version.digest, releases.environment)


class Promotion:
    """Promotes the adapters of one environment with one chart."""

    def __init__(self, releases: AdapterReleases, *, chart: str, approve: Approve):
        self._releases = releases
        self._chart, self._approve = chart, approve

    def promote(self, name: str) -> PromotionOutcome:
        """Make the cluster serve the declared versions of an adapter.

        Raises Refused if a check forbids the promotion, or if the versions could not serve and the
        promotion was reverted. Raises Unavailable if a service does not respond.
        """
        declared = self._releases.declarations.get(name)
        self._step("check", declared)
        declared.require_wanted()
        registry = self._releases.registry()
        approved = {pin.digest: self._approved(registry, declared, pin) for pin in declared.served}
        self._step("lock", declared)
        with self._releases.locked(name) as lock:
            self._step("recover", declared)
            self._require_recorded(declared)
            recovered = self._releases.recover(name)
            self._step("compare", declared)
            history, live = self._releases.helm.history(name), self._releases.live(name)
            self._require_expected(declared, live, history)
            done = live is not None and declared.is_live(live) and _is_deployed(history)
            if recovered or not done:
                values = self._values(declared, registry, approved, live, history)
                self._step("upgrade", declared)
                lock.require()
                self._upgrade(declared, values, history, lock)
            self._step("confirm", declared)
            return self._confirm(declared)

    def _approved(self, registry: Registry, declared: Declaration, pin: Pin) -> VersionInfo:
        version = self._approve(registry, declared.adapter, pin.version)
        if version.digest != pin.digest:
            raise Refused(
                f"{declared.adapter}@{pin.version}: git declares {pin.digest}, but the registry "
                f"has {version.digest}; propose the version again"
            )
        return version

    def _require_expected(
        self, declared: Declaration, live: Release | None, history: tuple[Revision, ...]
    ) -> None:
        """Raise Refused if the cluster serves another version than the one to replace."""
        label = f"{declared.adapter}@{declared.version}"
        record = self._releases.command("record", declared)
        expected = [declared.pin, *([declared.replaces] if declared.replaces else [])]
        if live is None:
            if declared.replaces is None:
                return
            serves = "nothing"
        elif live.pin in expected:
            return
        else:
            last = history[-1] if history else None
            since = f" (Helm revision {last.number}: {last.reason})" if last else ""
            serves = f"version {live.version}{since}"
        file = self._releases.declarations.path(declared.adapter)
        replaced = f"version {declared.replaces.version}" if declared.replaces else "nothing"
        raise Refused(
            f"{label}: {file} declares it in place of {replaced}, but "
            f"{self._releases.environment} serves {serves}; propose the version again, or run "
            f"{record} to declare the serving version"
        )

    def _require_recorded(self, declared: Declaration) -> None:
        """Raise Refused if the declared version was rolled back and git does not record that.

        This must run before `recover`, which removes an interrupted rollback from the history.
        """
        history = self._releases.helm.history(declared.adapter)
        if not any(entry.went_back and entry.number > declared.revision for entry in history):
            return  # the usual case; reading the values of every revision is slow
        rollback = unrecorded_rollback(self._releases.history(declared.adapter), declared)
        if rollback is None:
            return
        label = f"{declared.adapter}@{declared.version}: git declares it, but its rollback"
        which = f"(Helm revision {rollback.number}: {rollback.reason})"
        if rollback.pending:
            finish = self._releases.command("rollback", declared)
            raise Refused(f"{label} was interrupted {which}; run {finish} to finish it")
        record = self._releases.command("record", declared)
        raise Refused(f"{label} is not recorded in git {which}; run {record}")

    def _values(
        self,
        declared: Declaration,
        registry: Registry,
        approved: Mapping[str, VersionInfo],
        live: Release | None,
        history: tuple[Revision, ...],
    ) -> dict[str, Any]:
        platform = self._releases.helm.values(PLATFORM, all_=True)
        require_served(declared, platform)
        manifests = (
            self._releases.helm.values(declared.adapter).get("manifests", {}) if history else {}
        )

        def manifest(pin: Pin) -> str:
            if text := manifests.get(pin.digest):
                return str(text)
            info = approved.get(pin.digest) or registry.version(declared.adapter, pin.version)
            return registry.manifest_text(info)

        since = history[-1] if history else None
        return release_values(declared, platform, live, since, manifest)

    def _upgrade(
        self,
        declared: Declaration,
        values: dict[str, Any],
        history: tuple[Revision, ...],
        lock: HeldLease,
    ) -> None:
        name = declared.adapter
        try:
            self._releases.helm.upgrade(name, self._chart, values, declared.reason)
        except HelmRefused as error:
            why = self._releases.reason(name, error)
            self._releases.report(f"{name}@{declared.version}: {why}")
            lock.require()
            raise Refused(f"{self._revert(declared, history)}: {why}") from error

    def _revert(self, declared: Declaration, history: tuple[Revision, ...]) -> str:
        """Restore the last revision that served, and return the result as a sentence."""
        name = declared.adapter
        label = f"{name}@{declared.version} was reverted"
        good = next((entry.number for entry in reversed(history) if entry.served), None)
        if good is None:
            self._releases.helm.uninstall(name)
            return f"{label}; no version serves, as before"
        try:
            self._releases.helm.rollback(name, good, f"{declared.version} did not serve")
        except HelmRefused as error:
            return f"{label}; revision {good} was restored, but Helm reports a failure ({error})"
        return f"{label}; revision {good} serves, as before"

    def _confirm(self, declared: Declaration) -> PromotionOutcome:
        live, history = (
            self._releases.live(declared.adapter),
            self._releases.helm.history(declared.adapter),
        )
        if live is None or not declared.is_live(live):
            serving = label_of(live) if live else "nothing"
            raise Refused(
                f"{declared.adapter}: {serving} serves, but git declares {declared.version}; "
                "another process has changed the release; run the command again"
            )
        text = f"{label_of(live)} serves in {self._releases.environment}"
        try:
            alias = self._releases.alias(declared.adapter)
        except Unavailable as error:
            alias, text = None, f"{text}; the alias moves later: {error}"
        else:
            if alias != live.version:
                text = f"{text}; alias {self._releases.environment} names {alias} and moves later"
        return PromotionOutcome(declared.adapter, text, live, history[-1].number, alias)

    def _step(self, step: str, declared: Declaration) -> None:
        self._releases.report(f"{declared.adapter}@{declared.version}: {step}")


def _is_deployed(history: tuple[Revision, ...]) -> bool:
    return bool(history) and history[-1].status == "deployed"
