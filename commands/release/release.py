"""`atelier promote | rollback | retire | status`: which version serves here, and why.

With `--environment` on a cluster (commands/release/cluster.py), else on this machine.
"""

import os
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
    Path | None, typer.Option("--policy", metavar="FILE", help="By default the program's own.")
]


def promote(
    name: Name,
    version: Annotated[
        int | None,
        typer.Argument(min=1, help="Its version in the registry; by default what git declares."),
    ] = None,
    policy: PolicyFile = None,
    canary: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Only for this share of its calls, in percent."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Kept with the release.")] = "promoted",
    wait: Annotated[float, typer.Option(help="Seconds for the replicas to be ready.")] = 120.0,
    environment: Environment = None,
    place: ClusterTarget = ClusterTarget(),
) -> Answer:
    """Let a version serve, if its verdict allows it under this environment's policy.

    With --environment on a cluster, as the file in k8s/environments says; a VERSION is written
    there first.
    """
    if environment is not None:
        return promote_on(environment, place, name, version, policy, canary, reason)
    if version is None:
        raise BadInput(f"promote {name}: give its VERSION, or --environment for what git declares")
    from atelier.adapter.signature_policy import SignaturePolicy
    from atelier.data.policy import Policy
    from commands.adapter_references import open_registry
    from commands.serve.smoke import smoke_check
    from pipelines.delivery.local.promotion import promote as let_serve

    home = Home.find()
    return answer(
        let_serve(
            name,
            version,
            registry=open_registry(home),
            home=home,
            policy=Policy.load(policy),
            signatures=SignaturePolicy.read(os.environ),
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
        typer.Argument(min=1, help="A past revision; by default what served well before."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Kept with the release.")] = "rolled back",
    environment: Environment = None,
    place: ClusterTarget = ClusterTarget(),
) -> Answer:
    """Serve again what served before; works with the registry away.

    With --environment, git's file follows: what is left is withdrawn there. Ends a canary.
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
    """Stop serving an adapter; its versions stay in the registry."""
    if environment is not None:
        return retire_on(environment, place, name)
    from pipelines.delivery.local.promotion import retire as stop_serving

    home = Home.find()
    return answer(stop_serving(name, registry=_registry_if_there(home), home=home))


def record(
    name: Name,
    environment: Annotated[str, typer.Option(help="Whose file is written.")],
    reason: Annotated[
        str, typer.Option(help="Why what git declared is withdrawn.")
    ] = "the cluster served another version",
    place: ClusterTarget = ClusterTarget(),
) -> Answer:
    """Write what a cluster serves of an adapter into git's file, so that both agree again."""
    return record_on(environment, place, name, reason)


def status(environment: Environment = None, place: ClusterTarget = ClusterTarget()) -> Answer:
    """Show what serves here, since when, why, and on how many replicas it is ready.

    With --environment also where git, cluster and MLflow disagree: exit code 1.
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
    """A release, and how many of the live replicas could serve it at once."""
    held = [one.holds(release.adapter, release.digest) for one in replicas]
    return {
        **release.model_dump(mode="json"),
        "ready": sum(one is not None and one.state == "ready" for one in held),
    }


def _registry_if_there(home: Home) -> "Registry | None":
    """Going back must not need the registry: without it, only its alias stays behind."""
    from commands.adapter_references import open_registry

    try:
        return open_registry(home)
    except Unavailable:
        return None


def answer(standing: "PromotionStatus") -> Answer:
    """Where an adapter stands now, as a verb says it."""
    data = {
        "adapter": standing.adapter,
        "state": standing.state,
        "message": standing.message,
        "version": standing.version,
        "digest": standing.digest,
        "alias": standing.alias,
    }
    return Answer(standing.message, data, DISAGREES if standing.state == "disagrees" else 0)
