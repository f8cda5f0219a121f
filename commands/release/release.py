"""`atelier promote | rollback | retire | record | status`: change and show the serving versions.

With `--environment` these commands act on a cluster (commands/release/cluster.py), otherwise on
this machine.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.errors import BadInput
from atelier.home import Home
from commands.command import Answer
from commands.release.cluster import (
    CanaryShare,
    ClusterTarget,
    Environment,
    promote_on,
    record_on,
    retire_on,
    rollback_on,
    status_of,
)
from commands.terminal import short, table

if TYPE_CHECKING:
    from pipelines.delivery.local.reconciler import PromotionStatus

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the adapter.")]
PolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="Policy file. Default: the policy of the environment, or the built-in policy.",
    ),
]


def promote(
    name: Name,
    version: Annotated[
        int | None,
        typer.Argument(
            min=1, metavar="VERSION", help="Version number. Default: the version declared in git."
        ),
    ] = None,
    policy: PolicyFile = None,
    canary: CanaryShare = None,
    reason: Annotated[str, typer.Option(help="Reason, recorded in the release.")] = "promoted",
    wait: Annotated[float, typer.Option(help="Maximum wait for the replicas, in seconds.")] = 120.0,
    environment: Environment = None,
    target: ClusterTarget = ClusterTarget(),
) -> Answer:
    """Promote a version whose evaluation passes the policy.

    Without --environment, promotes VERSION on this machine. With --environment, applies the
    declaration in k8s/environments to the cluster. If VERSION is given, it is first written to the
    declaration. --wait applies only without --environment.
    """
    if environment is not None:
        return promote_on(environment, target, name, version, policy, canary, reason)
    if version is None:
        raise BadInput(
            f"promote {name}: VERSION is missing; give VERSION, or --environment for the version "
            "that git declares"
        )
    from atelier.adapter.signature_policy import SignaturePolicy
    from atelier.data.policy import Policy
    from atelier.stores.registry import Registry
    from commands.settings import CommandSettings
    from pipelines.delivery.local import promotion
    from pipelines.delivery.smoke import local_smoke

    home = Home.find()
    return answer(
        promotion.promote(
            name,
            version,
            registry=Registry(home.tracking_uri),
            home=home,
            policy=Policy.load(policy),
            signatures=SignaturePolicy.of(CommandSettings.read()),
            smoke=local_smoke(home),
            canary=canary,
            wait=wait,
            reason=reason,
        )
    )


def rollback(
    name: Name,
    revision: Annotated[
        int | None,
        typer.Argument(
            min=1, metavar="REVISION", help="Earlier revision. Default: the last good revision."
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="Reason, recorded in the release.")] = "rolled back",
    environment: Environment = None,
    target: ClusterTarget = ClusterTarget(),
) -> Answer:
    """Roll back to an earlier release.

    If the adapter has a canary and no revision is named, only the canary ends. The command also
    works while the registry is unavailable. With --environment, it also updates the declaration in
    git, which then lists the replaced version as withdrawn.
    """
    if environment is not None:
        return rollback_on(environment, target, name, revision, reason)
    from pipelines.delivery.local import promotion
    from pipelines.delivery.smoke import local_smoke

    home = Home.find()
    return answer(
        promotion.rollback(
            name,
            revision,
            registry=promotion.available_registry(home),
            home=home,
            smoke=local_smoke(home),
            reason=reason,
        )
    )


def retire(
    name: Name, environment: Environment = None, target: ClusterTarget = ClusterTarget()
) -> Answer:
    """Stop serving an adapter.

    Its versions stay in the registry.
    """
    if environment is not None:
        return retire_on(environment, target, name)
    from pipelines.delivery.local import promotion

    home = Home.find()
    registry = promotion.available_registry(home)
    return answer(promotion.retire(name, registry=registry, home=home))


def record(
    name: Name,
    environment: Annotated[str, typer.Option(help="Environment of the declaration.")],
    reason: Annotated[
        str, typer.Option(help="Reason for withdrawing the version declared in git.")
    ] = "the cluster served another version",
    target: ClusterTarget = ClusterTarget(),
) -> Answer:
    """Write a cluster's serving version to its declaration in git.

    Git and the cluster then declare the same version.
    """
    return record_on(environment, target, name, reason)


def status(environment: Environment = None, target: ClusterTarget = ClusterTarget()) -> Answer:
    """Show the serving versions and the number of ready replicas.

    Also shows the time and the reason of each release. With --environment, compares git, cluster
    and MLflow. Exit code 1 if they disagree.
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
    hint = [] if serving.replicas else ["no replica runs; start one with `atelier serve`"]
    data = {
        "home": str(home.root),
        "adapters": adapters,
        "replicas": [replica.model_dump(mode="json") for replica in serving.replicas],
    }
    return Answer("\n".join([table(heads, rows), *errors, *hint]), data)


def answer(status: "PromotionStatus") -> Answer:
    """Return the output of a command that ends with a promotion status."""
    data = {
        "adapter": status.adapter,
        "state": status.state,
        "message": status.message,
        "version": status.version,
        "digest": status.digest,
        "alias": status.alias,
    }
    return Answer(status.message, data, status.exit_code)
