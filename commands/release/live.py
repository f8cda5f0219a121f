"""`atelier live`: score the canaries by the images made for users."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import ExitCode
from atelier.home import Home
from commands.command import Answer
from commands.release.cluster import ClusterTarget, Environment, releases_of
from commands.release.release import PolicyFile
from commands.terminal import hide_library_bars, table

if TYPE_CHECKING:
    from atelier.data.policy import Policy
    from atelier.data.release import Release
    from pipelines.delivery.cluster import AdapterReleases
    from pipelines.evaluate.live import LiveReport


def live(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Name of the adapter. Default: all with a canary."),
    ] = None,
    policy: PolicyFile = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the training pictures, if neither MLflow nor this checkout has them.",
        ),
    ] = None,
    take_back: Annotated[
        bool,
        typer.Option(
            "--take-back",
            help="End a canary that falls behind, if the policy has `take_back: true`.",
        ),
    ] = False,
    environment: Environment = None,
    target: ClusterTarget = ClusterTarget(),
) -> Answer:
    """Score canaries by the images made for users.

    Compares sampled images of the canary with those of the serving version, and stores the
    decision beside the canary in the registry. Needs a section `live` in the policy. Exit code 1 if
    a canary falls behind.
    """
    from atelier.data.policy import Policy
    from atelier.data.release import ReleaseFolder
    from atelier.platform import listing
    from pipelines.live_scores import NOTHING, required

    home = Home.find()
    if environment is None:
        cluster, under = None, Policy.load(policy)
        releases: Iterable[Release] = ReleaseFolder(home.releases).list().values()
    else:
        cluster = releases_of(environment, target)
        under = Policy.load(policy or cluster.declarations.policy)
        releases = listing(cluster.api).releases.read().releases.values()
    if name is None and under.live is None:
        return Answer(NOTHING, {"canaries": [], "taken_back": []})
    required(under)
    asked = [release for release in releases if name in (None, release.adapter)]
    reports = _scored(name, asked, under, home, environment, pictures)
    ended = []
    if take_back and required(under).take_back:
        behind = [report for report in reports if report.verdict.decision == "falls behind"]
        ended = [_take_back(report, cluster, home) for report in behind]
    return _answer(reports, ended)


def _scored(
    name: str | None,
    releases: "list[Release]",
    policy: "Policy",
    home: Home,
    environment: str | None,
    pictures: Path | None,
) -> "list[LiveReport]":
    from atelier.errors import BadInput
    from atelier.stores.registry import Registry
    from commands.settings import CommandSettings
    from pipelines.delivery.local.reconciler import ENVIRONMENT
    from pipelines.live_scores import LiveScorer, score_all

    place = environment or ENVIRONMENT
    if name is not None and not any(release.canary for release in releases):
        raise BadInput(f"{name}: has no canary in {place}; promote one with --canary first")
    hide_library_bars()
    device = str(CommandSettings.read().torch_device())
    registry = Registry(home.tracking_uri)
    scorer = LiveScorer(registry, home, policy, place, device, pictures)
    return score_all(scorer, releases)


def _take_back(report: "LiveReport", cluster: "AdapterReleases | None", home: Home) -> str:
    """End a canary and return the result as a sentence."""
    from atelier.data.declaration import REASON

    reason = f"falls behind in live scores: {report.verdict.reasons[0]}"[:REASON]
    if cluster is not None:
        from pipelines.delivery.cluster import roll_back

        digest = report.canary.digest
        return roll_back(cluster, report.adapter, reason=reason, canary=digest).message
    from pipelines.delivery.local.promotion import available_registry, end_canary

    return end_canary(
        report.adapter,
        report.canary.digest,
        registry=available_registry(home),
        home=home,
        reason=reason,
    ).message


def _answer(reports: "list[LiveReport]", ended: list[str]) -> Answer:
    heads = ("ADAPTER", "CANARY", "SERVING", "MEASURE", "CANARY", "SERVING", "INTERVAL", "LIMIT")
    rows: list[tuple[Any, ...]] = [
        (
            report.adapter,
            report.canary.version,
            report.stable.version,
            difference.name,
            f"{difference.canary:.3f}",
            f"{difference.stable:.3f}",
            f"{difference.ci[0]:+.3f} to {difference.ci[1]:+.3f}",
            f"{difference.min_delta:+g}",
        )
        for report in reports
        for difference in report.verdict.differences
    ]
    lines = [table(heads, rows)] if rows else []
    for report in reports:
        lines.append(f"{report.adapter}@{report.canary.version}: {report.verdict.decision}")
        lines += [f"- {reason}" for reason in report.verdict.reasons]
    if not reports:
        lines.append("no adapter has a canary")
    behind = any(report.verdict.decision == "falls behind" for report in reports)
    data = {
        "canaries": [report.model_dump(mode="json") for report in reports],
        "taken_back": ended,
    }
    return Answer("\n".join([*lines, *ended]), data, ExitCode.of_verdict(not behind))
