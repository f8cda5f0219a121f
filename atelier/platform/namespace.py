"""The releases, reports and canaries of a namespace, as an environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atelier.contract.gateway import Gateway
from atelier.contract.replica import Replica
from atelier.platform.api import CONFIG_MAPS, INFERENCE_SERVICES, LEASES, Api
from atelier.platform.informer import Informer, Listed, Source
from atelier.platform.pod import Pod
from atelier.platform.release_configmaps import LABEL as ADAPTER
from atelier.platform.release_configmaps import ClusterReleases
from atelier.platform.report_leases import LABEL as REPORT
from atelier.platform.report_leases import ClusterReports
from atelier.stores.environment import Environment

SERVICE = "atelier"  # the InferenceService
SAVE_SECONDS = 5.0  # reports change often, and a start needs only the addresses in them


def watching(api: Api, pod: Pod, keep: Path) -> Environment:
    """Return an environment that follows the namespace, and saves its state in `keep`."""

    def source(path: str, query: tuple[str, str], file: str, seconds: float = 0.0) -> Source:
        return Informer(api, path, [query], kept=keep / file, save_seconds=seconds)

    return _environment(
        api,
        pod,
        releases=source(CONFIG_MAPS, ("labelSelector", ADAPTER), "releases.json"),
        reports=source(LEASES, ("labelSelector", REPORT), "reports.json", SAVE_SECONDS),
        service=source(
            INFERENCE_SERVICES, ("fieldSelector", f"metadata.name={SERVICE}"), "service.json"
        ),
    )


def listing(api: Api) -> Environment:
    """Return a read-only environment: lists objects at each call, reads shards on access."""
    heads = f"{REPORT} in (replica, gateway)"
    return _environment(
        api,
        None,
        releases=Listed(api, CONFIG_MAPS, [("labelSelector", ADAPTER)]),
        reports=Listed(api, LEASES, [("labelSelector", heads)]),
        service=Listed(api, INFERENCE_SERVICES, [("fieldSelector", f"metadata.name={SERVICE}")]),
        lazy=True,
    )


def _environment(
    api: Api,
    pod: Pod | None,
    *,
    releases: Source,
    reports: Source,
    service: Source,
    lazy: bool = False,
) -> Environment:
    return Environment(
        releases=ClusterReleases(releases, api),
        replicas=ClusterReports(Replica, "replica", reports, api, pod, lazy=lazy),
        gateways=ClusterReports(Gateway, "gateway", reports, api, pod, lazy=lazy),
        shares=lambda: canary_shares(service.read().objects.get(SERVICE) or {}),
    )


def canary_shares(service: Mapping[str, Any]) -> dict[str, int]:
    """Return each canary's percentage of requests, from `spec.canary` of an InferenceService."""
    canaries = service.get("spec", {}).get("canary") or ()
    return {
        str(canary["predictor"]["name"]): int(canary.get("trafficPercent") or 0)
        for canary in canaries
        if canary.get("predictor", {}).get("name")
    }
