"""`atelier promote | rollback | retire | record | status`: control which version serves.

With `--environment` they work on a cluster (commands/release/cluster.py), else on this machine.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.errors import BadInput
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
from commands.terminal import short, table
from commands.verb import Answer

if TYPE_CHECKING:
    from pipelines.delivery.local.reconciler import PromotionStatus

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
    target: ClusterTarget = ClusterTarget(),
) -> Answer:
    """Promote a version, if its verdict passes the policy.

    With --environment the cluster serves what the file in k8s/environments declares. If VERSION is
    given, it is first written to that file. --wait applies only without --environment.
    """
    if environment is not None:
        return promote_on(environment, target, name, version, policy, canary, reason)
    if version is None:
        raise BadInput(
            f"promote {name}: give VERSION, or --environment to use the version that git declares"
        )
    from atelier.adapter.signature_policy import SignaturePolicy
    from atelier.data.policy import Policy
    from atelier.stores.registry import Registry
    from commands.settings import CommandSettings
    from pipelines.delivery.local import promotion
    from pipelines.delivery.local.local_gateway import smoke_check

    home = Home.find()
    return answer(
        promotion.promote(
            name,
            version,
            registry=Registry(home.tracking_uri),
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
    target: ClusterTarget = ClusterTarget(),
) -> Answer:
    """Roll back to an earlier version.

    Works while the registry is unavailable, and ends a canary. With --environment it also updates
    the file in git, which then lists the replaced version as withdrawn.
    """
    if environment is not None:
        return rollback_on(environment, target, name, revision, reason)
    from pipelines.delivery.local import promotion
    from pipelines.delivery.local.local_gateway import smoke_check

    home = Home.find()
    return answer(
        promotion.rollback(
            name,
            revision,
            registry=promotion.available_registry(home),
            home=home,
            smoke=smoke_check(home),
            reason=reason,
        )
    )


def retire(
    name: Name, environment: Environment = None, target: ClusterTarget = ClusterTarget()
) -> Answer:
    """Stop serving an adapter. Its versions stay in the registry."""
    if environment is not None:
        return retire_on(environment, target, name)
    from pipelines.delivery.local import promotion

    home = Home.find()
    registry = promotion.available_registry(home)
    return answer(promotion.retire(name, registry=registry, home=home))


def record(
    name: Name,
    environment: Annotated[str, typer.Option(help="Environment whose file is written.")],
    reason: Annotated[
        str, typer.Option(help="Reason why the version that git declared is withdrawn.")
    ] = "the cluster served another version",
    target: ClusterTarget = ClusterTarget(),
) -> Answer:
    """Write the version that a cluster serves to the file in git, so that both agree."""
    return record_on(environment, target, name, reason)


def status(environment: Environment = None, target: ClusterTarget = ClusterTarget()) -> Answer:
    """Show which versions serve, since when and why, and how many replicas are ready.

    With --environment it also compares git, cluster and MLflow. Exit code 1 if they disagree.
    """
    if environment is not None:
        return status_of(environment, target)
    from pipelines.delivery.local.status import home_status

    home = Home.find()
    serving = home_status(home)
    adapters = [
        {**line.release.model_dump(mode="json"), "ready": line.ready} for line in serving.releases
    ]
    rows = [
        (
            adapter["adapter"],
            adapter["version"],
            short(adapter["digest"]),
            adapter["revision"],
            adapter["since"][:19].replace("T", " "),
            f"{adapter['ready']}/{len(serving.replicas)}",
            adapter["reason"],
        )
        for adapter in adapters
    ]
    heads = ("ADAPTER", "VERSION", "DIGEST", "REVISION", "SINCE (UTC)", "READY", "REASON")
    errors = [
        f"{replica.replica}: {replica.error}" for replica in serving.replicas if replica.error
    ]
    hint = [] if serving.replicas else ["no replica is running; start one with `atelier serve`"]
    data = {
        "home": str(home.root),
        "adapters": adapters,
        "replicas": [replica.model_dump(mode="json") for replica in serving.replicas],
    }
    return Answer("\n".join([table(heads, rows), *errors, *hint]), data)


def answer(status: "PromotionStatus") -> Answer:
    """The answer of a verb for an adapter's promotion status."""
    data = {
        "adapter": status.adapter,
        "state": status.state,
        "message": status.message,
        "version": status.version,
        "digest": status.digest,
        "alias": status.alias,
    }
    return Answer(status.message, data, status.exit_code)
