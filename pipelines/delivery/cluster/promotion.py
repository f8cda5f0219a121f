"""Promotes an adapter on a cluster; safe to be killed anywhere.

`promote` makes the cluster serve what git declares: `helm upgrade` of the adapter's release, whose
hook waits until every replica and gateway answers by it, draws judged images again and moves the
alias. A promotion that fails is restored. The next promotion finds one that was killed: the lock
expires, the revision that Helm left pending is removed, and the upgrade is done again. Replicas and
gateways see only ConfigMaps, and each of those is a whole release.
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
from pipelines.delivery.approval import approve
from pipelines.delivery.cluster.helm_values import release_values, require_served
from pipelines.delivery.cluster.releases import (
    PLATFORM,
    AdapterReleases,
    PromotionOutcome,
    label_of,
)
from pipelines.delivery.cluster.rollback import unrecorded

STEPS: Final = ("check", "lock", "recover", "compare", "upgrade", "confirm")  # of a promotion

Approve = Callable[[Registry, str, int], VersionInfo]  # Refused where it may not serve


def approval_by_policy(releases: AdapterReleases, policy: Path | None = None) -> Approve:
    """Approve by verdict and signature under the environment's policies.

    `policy` takes the place of its policy.yaml. A warning about a signature is reported.
    """
    declarations = releases.declarations

    def check(registry: Registry, name: str, version: int) -> VersionInfo:
        approval = approve(
            registry,
            registry.version(name, version),
            Policy.load(policy or declarations.policy),
            SignaturePolicy.of_platform(declarations.platform),
        )
        if approval.warning:
            releases.report(approval.warning)
        return approval.version

    return check


class Promotion:
    """Promotes the adapters of one environment with one chart."""

    def __init__(self, releases: AdapterReleases, *, chart: str, approve: Approve):
        self._releases = releases
        self._chart, self._approve = chart, approve

    def promote(self, name: str) -> PromotionOutcome:
        """Make the cluster serve what git declares of an adapter; taken back where it cannot."""
        declared = self._releases.declarations.get(name)
        self._step("check", declared)
        declared.require_wanted()
        registry = self._releases.registry()
        approved = {p.digest: self._approved(registry, declared, p) for p in declared.served}
        self._step("lock", declared)
        with self._releases.locked(name) as lock:
            self._step("recover", declared)
            self._require_not_left(declared)
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
        found = self._approve(registry, declared.adapter, pin.version)
        if found.digest != pin.digest:
            raise Refused(
                f"{declared.adapter}@{pin.version}: git declares {pin.digest}, but the registry "
                f"has {found.digest}; propose the version again"
            )
        return found

    def _require_expected(
        self, declared: Declaration, live: Release | None, history: tuple[Revision, ...]
    ) -> None:
        """Refused where the file was written for another state of the cluster."""
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
            f"{self._releases.environment} serves {serves}; propose the version again, or let "
            f"{record} write down what serves"
        )

    def _require_not_left(self, declared: Declaration) -> None:
        """Refused where somebody went back from what git declares, and git has not heard of it.

        Looked at before anything is recovered, which would forget a rollback that was cut off.
        """
        history = self._releases.helm.history(declared.adapter)
        if not any(one.went_back and one.number > declared.revision for one in history):
            return  # as it is mostly, and Helm need not be asked what each revision serves
        back = unrecorded(self._releases.history(declared.adapter), declared)
        if back is None:
            return
        label = f"{declared.adapter}@{declared.version}: git declares it, but a rollback from it"
        which = f"(Helm revision {back.number}: {back.reason})"
        if back.pending:
            finish = self._releases.command("rollback", declared)
            raise Refused(f"{label} was begun and cut off {which}; {finish} finishes that")
        record = self._releases.command("record", declared)
        raise Refused(f"{label} was not written down {which}; {record} does so")

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
        known = self._releases.helm.values(declared.adapter).get("manifests", {}) if history else {}

        def manifest(pin: Pin) -> str:
            if text := known.get(pin.digest):
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
            raise Refused(f"{self._restored(declared, history)}: {why}") from error

    def _restored(self, declared: Declaration, history: tuple[Revision, ...]) -> str:
        """Take a promotion back; how that went."""
        name = declared.adapter
        label = f"{name}@{declared.version} is taken back"
        good = next((one.number for one in reversed(history) if one.served), None)
        if good is None:
            self._releases.helm.uninstall(name)
            return f"{label}, nothing serves as before"
        try:
            self._releases.helm.rollback(name, good, f"{declared.version} did not serve")
        except HelmRefused as error:
            return f"{label} to revision {good}, which is not well ({error})"
        return f"{label}, revision {good} serves as before"

    def _confirm(self, declared: Declaration) -> PromotionOutcome:
        live, history = (
            self._releases.live(declared.adapter),
            self._releases.helm.history(declared.adapter),
        )
        if live is None or not declared.is_live(live):
            found = label_of(live) if live else "nothing"
            raise Refused(
                f"{declared.adapter}: {found} serves, though git declares {declared.version}: "
                "somebody else is at it; run this again"
            )
        text = f"{label_of(live)} serves in {self._releases.environment}"
        try:
            alias = self._releases.alias(declared.adapter)
        except Unavailable as error:
            alias, text = None, f"{text}; its alias follows later: {error}"
        else:
            if alias != live.version:
                text = (
                    f"{text}; alias {self._releases.environment} names {alias}, and follows later"
                )
        return PromotionOutcome(declared.adapter, text, live, history[-1].number, alias)

    def _step(self, step: str, declared: Declaration) -> None:
        self._releases.report(f"{declared.adapter}@{declared.version}: {step}")


def _is_deployed(history: tuple[Revision, ...]) -> bool:
    return bool(history) and history[-1].status == "deployed"
