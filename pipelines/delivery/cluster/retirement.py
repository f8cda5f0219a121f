"""Retire an adapter on a cluster."""

from typing import Final

from atelier.errors import Unavailable
from atelier.platform import listing
from atelier.platform.api import CONFIG_MAPS
from atelier.platform.release_configmaps import PREFIX
from pipelines.delivery.cluster.releases import AdapterReleases, PromotionOutcome
from pipelines.delivery.readiness import retirement_readiness

GONE: Final = 120.0  # seconds until replicas and gateways stop serving the adapter
LOOK: Final = 1.0  # seconds between two readings of their reports


def retire(releases: AdapterReleases, name: str) -> PromotionOutcome:
    """Uninstall the adapter's release, wait until nothing serves it, and remove its file.

    Raises Unavailable if a process still serves it after GONE seconds.
    """
    with releases.locked(name):
        releases.helm.uninstall(name)
        # Helm has no record of a first installation that was killed.
        releases.api.delete(CONFIG_MAPS, f"{PREFIX}{name}")
        environment, end = listing(releases.api), releases.clock() + GONE
        while (readiness := retirement_readiness(environment, name)).state != "absent":
            if releases.clock() >= end:
                raise Unavailable(f"{name}: the release is uninstalled, but {readiness.detail}")
            releases.pause(LOOK)
        releases.declarations.remove(name)
    message = (
        f"{name} is retired; the platform's CronJob removes alias {releases.environment}. "
        f"Commit the removal of {releases.declarations.path(name)}"
    )
    return PromotionOutcome(name, message, None, None)
