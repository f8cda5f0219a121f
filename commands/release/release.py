"""`atelier promote | rollback | retire | record | status`: control which version serves.

With `--environment` they work on a cluster (commands/release/cluster.py), else on this machine.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput, Unavailable
from atelier.home import Home
from commands.release.cluster import (
    ClusterTarget,
    Environment,
    promote_on,
    record_on,
    retire_on,
    rollback_on,
    status_of,
)
from commands.table import short, table
from commands.verb import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atelier.contract.replica import Replica
    from atelier.data.release import Release
    from atelier.stores.registry import Registry
    from pipelines.delivery.local.reconciler import PromotionStatus

DISAGREES = 1

Name = Annotated[str, typer.Argument(metavar="NAME", help="The adapter.")]
PolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="Policy file. Default: the environment's, or the built-in policy.",
    ),
]


def promote(
    name: Name,
    version: Annotated[
        int | None,
        typer.Argument(min=1, help="Version number. Default: the version that git declares."),
    ] = None,
    policy: PolicyFile = None,
    canary: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Canary: only this percentage of the calls."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Recorded in the release.")] = "promoted",
    wait: Annotated[
        float, typer.Option(help="Seconds to wait until the replicas are ready.")
    ] = 120.0,
    environment: Environment = None,
    place: ClusterTarget = ClusterTarget(),
) -> Answer:
    """Promote a version, if its verdict passes the policy.

    With --environment the cluster serves what the file in k8s/environments declares. If VERSION is
    given, it is first written to that file. --wait applies only without --environment.
    """
    if environment is not None:
        return promote_on(environment, place, name, version, policy, canary, reason)
    if version is None:
        raise BadInput(
            f"promote {name}: give VERSION, or --environment to use the version that git declares"
        )
    from atelier.adapter.signature_policy import SignaturePolicy
    from atelier.data.policy import Policy
    from commands.adapter_references import open_registry
    from commands.serve.smoke import smoke_check
    from commands.settings import CommandSettings
    from pipelines.delivery.local.promotion import promote as let_serve

    home = Home.find()
    return answer(
        let_serve(
            name,
            version,
            registry=open_registry(home),
            home=home,
            policy=Policy.load(policy),
            signatures=SignaturePolicy.of(CommandSettings.read()),
            smoke=smoke_check(home),
            canary=canary,
            wait=wait,
            reason=reason,
        )
    )


def rollback(
    name: Name,
    revision: Annotated[
        int | None,
        typer.Argument(min=1, help="Earlier revision. Default: the last good one."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Recorded in the release.")] = "rolled back",
    environment: Environment = None,
    place: ClusterTarget = ClusterTarget(),
) -> Answer:
    """Roll back to an earlier version.

    Works while the registry is unavailable, and ends a canary. With --environment it also updates
    the file in git, which then lists the replaced version as withdrawn.
    """
    if environment is not None:
        return rollback_on(environment, place, name, revision, reason)
    from commands.serve.smoke import smoke_check
    from pipelines.delivery.local.promotion import rollback as go_back

    home = Home.find()
    standing = go_back(
        name,
        revision,
        registry=_registry_if_there(home),
        home=home,
        smoke=smoke_check(home),
        reason=reason,
    )
    return answer(standing)


def retire(
    name: Name, environment: Environment = None, place: ClusterTarget = ClusterTarget()
) -> Answer:
    """Stop serving an adapter. Its versions stay in the registry."""
    if environment is not None:
        return retire_on(environment, place, name)
    from pipelines.delivery.local.promotion import retire as stop_serving

    home = Home.find()
    return answer(stop_serving(name, registry=_registry_if_there(home), home=home))


def record(
    name: Name,
    environment: Annotated[str, typer.Option(help="Environment whose file is written.")],
    reason: Annotated[
        str, typer.Option(help="Reason why the version that git declared is withdrawn.")
    ] = "the cluster served another version",
    place: ClusterTarget = ClusterTarget(),
) -> Answer:
    """Write the version that a cluster serves to the file in git, so that both agree."""
    return record_on(environment, place, name, reason)


def status(environment: Environment = None, place: ClusterTarget = ClusterTarget()) -> Answer:
    """Show which versions serve, since when and why, and how many replicas are ready.

    With --environment it also compares git, cluster and MLflow. Exit code 1 if they disagree.
    """
    if environment is not None:
        return status_of(environment, place)
    from atelier.contract.replica import ReplicaFolder
    from atelier.data.release import ReleaseFolder

    home = Home.find()
    releases = ReleaseFolder(home.releases).list()
    replicas = ReplicaFolder(home.replicas).live()
    adapters = [_standing_of(release, replicas) for release in releases.values()]
    rows = [
        (
            one["adapter"],
            one["version"],
            short(one["digest"]),
            one["revision"],
            one["since"][:19].replace("T", " "),
            f"{one['ready']}/{len(replicas)}",
            one["reason"],
        )
        for one in adapters
    ]
    heads = ("ADAPTER", "VERSION", "DIGEST", "REVISION", "SINCE (UTC)", "READY", "REASON")
    troubles = [f"{one.replica}: {one.error}" for one in replicas if one.error]
    closing = [] if replicas else ["no replica is running; start one with `atelier serve`"]
    data = {
        "home": str(home.root),
        "adapters": adapters,
        "replicas": [one.model_dump(mode="json") for one in replicas],
    }
    return Answer("\n".join([table(heads, rows), *troubles, *closing]), data)


def _standing_of(release: "Release", replicas: "Sequence[Replica]") -> dict[str, Any]:
    """A release, and the number of live replicas that are ready to serve it."""
    held = [one.holds(release.adapter, release.digest) for one in replicas]
    return {
        **release.model_dump(mode="json"),
        "ready": sum(one is not None and one.state == "ready" for one in held),
    }


def _registry_if_there(home: Home) -> "Registry | None":
    """The registry, or None if it is unavailable: a rollback must work without it."""
    from commands.adapter_references import open_registry

    try:
        return open_registry(home)
    except Unavailable:
        return None


def answer(standing: "PromotionStatus") -> Answer:
    """The answer of a verb for an adapter's promotion status."""
    data = {
        "adapter": standing.adapter,
        "state": standing.state,
        "message": standing.message,
        "version": standing.version,
        "digest": standing.digest,
        "alias": standing.alias,
    }
    return Answer(standing.message, data, DISAGREES if standing.state == "disagrees" else 0)
