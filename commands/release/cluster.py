"""`promote`, `rollback`, `retire`, `record` and `status` on a cluster (with `--environment`).

These commands run in the root of a checkout. The files in k8s/environments declare the serving
versions. KUBECONFIG selects the cluster.
"""

import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput, Interrupted
from atelier.home import Home
from commands.command import Answer
from commands.terminal import print_progress, short, table

if TYPE_CHECKING:
    from atelier.data.declaration import Declaration
    from atelier.data.release import Release
    from pipelines.delivery.cluster import (
        AdapterReleases,
        EnvironmentStatus,
        PromotionOutcome,
        StatusLine,
    )

CHART = "charts/adapter"

Environment = Annotated[
    str | None,
    typer.Option(metavar="ENV", help="Environment on a cluster, from k8s/environments."),
]
CanaryShare = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100,
        metavar="PERCENT",
        help="Serve the version as a canary with this percentage of the adapter's requests.",
    ),
]


@dataclass(frozen=True)
class ClusterTarget:
    """The options that locate an environment on a cluster (an option group of `add_command`)."""

    namespace: Annotated[
        str | None,
        typer.Option(
            envvar="ATELIER_NAMESPACE", help="Namespace of the environment. Default: atelier-ENV."
        ),
    ] = None
    chart: Annotated[
        str | None,
        typer.Option(help="Adapter chart: a folder or oci:// address. Default: charts/adapter."),
    ] = None


def promote_on(
    environment: str,
    target: ClusterTarget,
    name: str,
    version: int | None,
    policy: Path | None,
    canary: int | None,
    reason: str,
) -> Answer:
    """Apply the declaration in git to the cluster.

    If `version` is given, it is first written to the declaration. Raises BadInput if `canary` is
    given without `version`.
    """
    if version is None and canary is not None:
        raise BadInput(f"promote {name} --canary: VERSION is missing; give the canary's version")
    from pipelines.delivery.cluster import Promotion, approval_by_policy
    from pipelines.delivery.proposal import Proposal, write_declaration

    releases = releases_of(environment, target)
    if version is not None:
        proposal = Proposal(name, version, environment, reason, canary)
        write_declaration(proposal, releases.declarations, releases.registry(), policy)
    approve = approval_by_policy(releases, policy)
    return _answer(Promotion(releases, chart=target.chart or CHART, approve=approve).promote(name))


def rollback_on(
    environment: str, target: ClusterTarget, name: str, revision: int | None, reason: str
) -> Answer:
    """Roll back on the cluster and update the declaration in git."""
    from pipelines.delivery.cluster import roll_back

    return _answer(roll_back(releases_of(environment, target), name, revision, reason=reason))


def record_on(environment: str, target: ClusterTarget, name: str, reason: str) -> Answer:
    """Write the serving version to the declaration in git."""
    from pipelines.delivery.cluster import record

    return _answer(record(releases_of(environment, target), name, reason=reason))


def retire_on(environment: str, target: ClusterTarget, name: str) -> Answer:
    """Stop serving an adapter on the cluster."""
    from pipelines.delivery.cluster import retire

    return _answer(retire(releases_of(environment, target), name))


def status_of(environment: str, target: ClusterTarget) -> Answer:
    """Show all adapters of an environment, and the differences between git, cluster and MLflow."""
    from pipelines.delivery.cluster import environment_status

    return _status(environment_status(releases_of(environment, target)))


def _status(status: "EnvironmentStatus") -> Answer:
    heads = ("ADAPTER", "GIT", "CLUSTER", "ALIAS", "REVISION", "READY", "SINCE (UTC)", "REASON")
    rows = [
        (
            line.adapter,
            _version(line.declared),
            _version(line.live),
            line.alias,
            line.revision.number if line.revision else None,
            f"{line.ready}/{line.replicas}",
            line.revision.updated.strftime("%Y-%m-%d %H:%M:%S") if line.revision else None,
            line.revision.reason if line.revision else None,
        )
        for line in status.lines
    ]
    problems = [*status.differences, *filter(None, [status.registry_problem])]
    data: dict[str, Any] = {
        "environment": status.environment,
        "adapters": [_line_data(line) for line in status.lines],
        "differences": status.differences,
        "away": status.registry_problem or None,
    }
    lines = [table(heads, rows), *(problems or ["git, cluster and MLflow agree"])]
    return Answer("\n".join(lines), data, status.exit_code)


def _line_data(line: "StatusLine") -> dict[str, Any]:
    return {
        "adapter": line.adapter,
        "git": line.declared.model_dump(mode="json") if line.declared else None,
        "cluster": line.live.model_dump(mode="json") if line.live else None,
        "revision": line.revision.number if line.revision else None,
        "alias": line.alias,
        "ready": line.ready,
        "replicas": line.replicas,
        "differences": list(line.differences),
    }


def _version(served: "Declaration | Release | None") -> str | None:
    if served is None:
        return None
    canary = served.canary
    share = f" +{canary.version}@{canary.percent}%" if canary else ""
    return f"{served.version} {short(served.digest)}{share}"


def releases_of(environment: str, target: ClusterTarget) -> "AdapterReleases":
    """Return the adapters of the environment, and install a SIGTERM handler (`_stop`)."""
    from atelier.data.declaration import Declarations
    from atelier.platform import Api
    from atelier.platform.helm import Helm
    from atelier.stores.registry import Registry
    from commands.settings import CommandSettings
    from pipelines.delivery.cluster import AdapterReleases

    declarations = Declarations(Path(), environment)
    signal.signal(signal.SIGTERM, _stop)
    api = Api.connect(target.namespace or f"atelier-{environment}")
    return AdapterReleases(
        declarations,
        api,
        Helm(api, program=CommandSettings.read().helm),
        lambda: Registry(Home.find().tracking_uri),
        holder=f"{socket.gethostname()}-{os.getpid()}",
        report=print_progress,
    )


def _stop(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM, as from a canceled workflow: the exception stops Helm and frees the lock."""
    raise Interrupted("stopped by SIGTERM; run the command again to complete it")


def _answer(outcome: "PromotionOutcome") -> Answer:
    release = outcome.release
    data = {
        "adapter": outcome.adapter,
        "message": outcome.message,
        "version": release.version if release else None,
        "digest": release.digest if release else None,
        "canary": release.canary.model_dump() if release and release.canary else None,
        "revision": outcome.revision,
        "alias": outcome.alias,
    }
    return Answer(outcome.message, data)
