"""`promote`, `rollback`, `retire`, `record` and `status` on a cluster (with `--environment`).

Run them in the root of a checkout. Its files in k8s/environments declare which versions serve, and
KUBECONFIG names the cluster.
"""

import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.data.declaration import Declarations
from atelier.errors import BadInput, Interrupted, Unavailable
from atelier.home import Home
from commands.settings import CommandSettings
from commands.table import short, table
from commands.verb import Answer

if TYPE_CHECKING:
    from atelier.stores.registry import Registry, VersionInfo
    from pipelines.delivery.cluster import AdapterReleases, PromotionOutcome, StatusLine
    from pipelines.delivery.cluster.promotion import Approve

DIFFERS, AWAY = 1, 3
CHART = Path("charts/adapter")

Environment = Annotated[
    str | None,
    typer.Option(metavar="ENV", help="Environment on a cluster: one of k8s/environments."),
]


@dataclass(frozen=True)
class ClusterTarget:
    """Options for the location of an environment; a group of options (see commands.verb)."""

    namespace: Annotated[
        str | None,
        typer.Option(
            envvar="ATELIER_NAMESPACE", help="Namespace of the environment. Default: atelier-ENV."
        ),
    ] = None
    chart: Annotated[
        str | None,
        typer.Option(help="charts/adapter: a folder or oci:// address. Default: this checkout's."),
    ] = None


def promote_on(
    environment: str,
    place: ClusterTarget,
    name: str,
    version: int | None,
    policy: Path | None,
    canary: int | None,
    reason: str,
) -> Answer:
    """Apply the declaration in git to the cluster. A `version` is first written to its file."""
    declarations = Declarations(Path(), environment)
    if version is not None:
        from atelier.data.policy import Policy
        from pipelines.delivery.declare import propose

        made = propose(
            name,
            version,
            declared=declarations.find(name),
            registry=_registry(),
            policy=Policy.load(policy or declarations.policy),
            environment=environment,
            canary=canary,
            reason=reason,
        )
        declarations.put(made)
    elif canary is not None:
        raise BadInput(f"promote {name} --canary: give the VERSION of the canary")
    from pipelines.delivery.cluster import Promotion

    releases = _releases(declarations, place)
    chart, approve = place.chart or str(CHART), _approver(declarations, policy)
    return _answer(Promotion(releases, chart=chart, approve=approve).promote(name))


def rollback_on(
    environment: str, place: ClusterTarget, name: str, revision: int | None, reason: str
) -> Answer:
    """Roll back, and write the result to the file in git."""
    declarations = Declarations(Path(), environment)
    from pipelines.delivery.cluster import roll_back

    return _answer(roll_back(_releases(declarations, place), name, revision, reason=reason))


def record_on(environment: str, place: ClusterTarget, name: str, reason: str) -> Answer:
    """Write the serving version to the file in git."""
    declarations = Declarations(Path(), environment)
    from pipelines.delivery.cluster import record

    return _answer(record(_releases(declarations, place), name, reason=reason))


def retire_on(environment: str, place: ClusterTarget, name: str) -> Answer:
    """Stop serving an adapter."""
    declarations = Declarations(Path(), environment)
    from pipelines.delivery.cluster import retire

    return _answer(retire(_releases(declarations, place), name))


def status_of(environment: str, place: ClusterTarget) -> Answer:
    """Every adapter of the environment, and the differences between git, cluster and MLflow."""
    from atelier.platform import Api, listing
    from atelier.platform.helm import Helm
    from pipelines.delivery.cluster import compare

    declarations = Declarations(Path(), environment)
    api = Api.connect(_namespace(environment, place))
    helm, there = Helm(api, program=CommandSettings.read().helm), listing(api)
    released, files = there.releases.read(), declarations.list()
    names = {*files, *released.releases, *released.unreadable}
    revisions = {name: found[-1] for name in names if (found := helm.history(name))}
    away = ""
    try:
        registry = _registry()
        versions = {name: registry.versions(name) for name in registry.adapters()}
    except Unavailable as error:
        versions, away = None, f"aliases are not compared: {error}"
    lines = compare(environment, files, released, revisions, versions, there.replicas.live())
    return _told(environment, lines, away)


def _told(environment: str, lines: "list[StatusLine]", away: str) -> Answer:
    heads = ("ADAPTER", "GIT", "CLUSTER", "ALIAS", "REVISION", "READY", "SINCE (UTC)", "REASON")
    rows = [
        (
            one.adapter,
            _version(one.declared),
            _version(one.live),
            one.alias or "-",
            one.revision.number if one.revision else "-",
            f"{one.ready}/{one.replicas}",
            one.revision.updated.strftime("%Y-%m-%d %H:%M:%S") if one.revision else "-",
            one.revision.reason if one.revision else "-",
        )
        for one in lines
    ]
    differences = [f"{one.adapter}: {text}" for one in lines for text in one.differences]
    closing = [*differences, *([away] if away else [])]
    agreed = [] if closing else ["git, cluster and MLflow agree"]
    data: dict[str, Any] = {
        "environment": environment,
        "adapters": [_plain(one) for one in lines],
        "differences": differences,
        "away": away or None,
    }
    code = DIFFERS if differences else AWAY if away else 0
    return Answer("\n".join([table(heads, rows), *closing, *agreed]), data, code)


def _plain(one: "StatusLine") -> dict[str, Any]:
    return {
        "adapter": one.adapter,
        "git": one.declared.model_dump(mode="json") if one.declared else None,
        "cluster": one.live.model_dump(mode="json") if one.live else None,
        "revision": one.revision.number if one.revision else None,
        "alias": one.alias,
        "ready": one.ready,
        "replicas": one.replicas,
        "differences": list(one.differences),
    }


def _version(one: Any) -> str:
    if one is None:
        return "-"
    share = f" +{one.canary.version}@{one.canary.percent}%" if one.canary else ""
    return f"{one.version} {short(one.digest)}{share}"


def _releases(declarations: Declarations, place: ClusterTarget) -> "AdapterReleases":
    from atelier.platform import Api
    from atelier.platform.helm import Helm
    from pipelines.delivery.cluster import AdapterReleases

    signal.signal(signal.SIGTERM, _stop)
    api = Api.connect(_namespace(declarations.environment, place))
    helm = Helm(api, program=CommandSettings.read().helm)
    holder = f"{socket.gethostname()}-{os.getpid()}"
    return AdapterReleases(declarations, api, helm, _registry, holder=holder, report=_say)


def _approver(declarations: Declarations, policy: Path | None) -> "Approve":
    from atelier.adapter.signature_policy import SignaturePolicy
    from atelier.data.policy import Policy
    from pipelines.delivery.approval import approve

    def check(registry: "Registry", name: str, version: int) -> "VersionInfo":
        approval = approve(
            registry,
            registry.version(name, version),
            Policy.load(policy or declarations.policy),
            SignaturePolicy.of_platform(declarations.platform),
        )
        if approval.warning:
            _say(approval.warning)
        return approval.version

    return check


def _stop(number: int, frame: FrameType | None) -> None:
    """On SIGTERM (a cancelled workflow): stop Helm too, and release the lock."""
    raise Interrupted("stopped; run the command again to complete it")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _registry() -> "Registry":
    from commands.adapter_references import open_registry

    return open_registry(Home.find())


def _namespace(environment: str, place: ClusterTarget) -> str:
    return place.namespace or f"atelier-{environment}"


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
