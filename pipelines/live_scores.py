"""Scores canaries by the pictures made for users: as a Job, and for `atelier live`.

python -m pipelines.live_scores --environment ENV --policy policy.yaml

For each canary, the sampled pictures of it and of the serving version are read from MLflow and
measured with the policy's scorers. The report is stored beside the canary's version, where a
promotion reads it. The Job changes no release.

Exit codes: 0 every canary was scored, whatever the decision; 2 bad input; 3 a service is
unavailable.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from atelier.adapter.package import Package
from atelier.data.live_policy import LivePolicy
from atelier.data.manifest import Manifest
from atelier.data.names import ArtifactRef
from atelier.data.policy import Policy
from atelier.data.release import Pin, Release, ReleaseFolder
from atelier.errors import AtelierError, BadInput, PolicyError, Refused
from atelier.failures import run_process
from atelier.home import Home
from atelier.logs import log_to
from atelier.platform import Api, listing
from atelier.platform.jobs.training import PICTURES_TAG
from atelier.stores.artifacts import Artifacts
from atelier.stores.packages import fetched
from atelier.stores.registry import Registry, VersionInfo
from pipelines.delivery.local.reconciler import ENVIRONMENT
from pipelines.evaluate.live import LiveReport, LiveSide, decide, report_name, scorer_names
from pipelines.evaluate.live_samples import live_samples, measured
from pipelines.evaluate.measures import ReferenceSet, Scorer
from pipelines.evaluate.references import recipe_of, reference_set
from pipelines.evaluate.scorers import Scorers
from pipelines.settings import JobSettings

logger = logging.getLogger("pipelines.live_scores")

NOTHING = "the policy has no section `live`: nothing is scored"


@dataclass(frozen=True)
class LiveScorer:
    """Scores the canaries of one environment. `pictures` replaces the training pictures."""

    registry: Registry
    home: Home
    policy: Policy
    environment: str
    device: str = "cpu"
    pictures: Path | None = None

    def score(self, release: Release, scorers: Scorers | None = None) -> LiveReport:
        """Measure both versions of a release, and store the report beside the canary's version.

        Raises BadInput if the release has no canary or the training pictures cannot be found,
        PolicyError if the policy has no section `live`, Refused if the registry has another package
        for a version, and Unavailable if it does not respond.
        """
        live, canary = required(self.policy), release.canary
        if canary is None:
            raise BadInput(f"{release.adapter}: has no canary in {self.environment}")
        scorers = scorers or self.scorers()
        stable_info, stable = self._side(release.adapter, release.pin, scorers)
        canary_info, tried = self._side(release.adapter, canary, scorers)
        report = LiveReport(
            adapter=release.adapter,
            environment=self.environment,
            time=datetime.now(UTC),
            policy=live.digest,
            scorers=scorers.names,
            scorer_digests=scorers.digests,
            stable=stable,
            canary=tried,
            verdict=decide(stable, tried, live),
        )
        data = report.to_json().encode()
        self.registry.attest(canary_info, report_name(self.environment), data)
        logger.info(
            "%s: version %d %s with version %d",
            release.adapter,
            canary_info.version,
            report.verdict.decision,
            stable_info.version,
        )
        return report

    def scorers(self) -> Scorers:
        """Load the scorers of the policy."""
        return Scorers(scorer_names(self.policy), self.device)

    def _side(self, name: str, pin: Pin, scorer: Scorer) -> tuple[VersionInfo, LiveSide]:
        info = self.registry.version(name, pin.version)
        if info.digest != pin.digest:
            raise Refused(
                f"{info.label}: the release serves {pin.digest}, but the registry has "
                f"{info.digest}; promote a version that it has"
            )
        package = fetched(self.registry, self.home, info)
        samples, others = live_samples(self.registry, info, self.environment)
        references = self._references(info, package)
        side = measured(info, package.manifest, samples, references, scorer, skipped=others)
        return info, side

    def _references(self, info: VersionInfo, package: Package) -> ReferenceSet:
        """Return the reference pictures of a version's evaluation.

        They come from the option, else from MLflow, else from a recipe in this checkout.
        """
        manifest = package.manifest
        if self.pictures is not None:
            return reference_set(manifest, self.pictures)
        if PICTURES_TAG in info.tags:
            return self._stored_references(manifest, info.tags)
        try:
            return reference_set(manifest, recipe_of(package))
        except BadInput as error:
            raise BadInput(
                f"{info.label}: its training pictures are neither named in MLflow nor in this "
                f"checkout ({error}); give them with --pictures"
            ) from error

    def _stored_references(self, manifest: Manifest, tags: Mapping[str, str]) -> ReferenceSet:
        artifacts, root = Artifacts(self.home.tracking_uri), self.home.root / "artifacts"

        def get(digest: str) -> Path:
            ref = ArtifactRef.of("datasets", digest)
            return artifacts.get(ref, root / ref.kind / ref.key)

        return reference_set(manifest, get(tags[PICTURES_TAG]))


def required(policy: Policy) -> LivePolicy:
    """Return the section `live` of a policy. Raises PolicyError if there is none."""
    if policy.live is None:
        raise PolicyError(
            "policy: has no section `live`; add `live: {limits: {subject: {min_delta: -0.05}}}`"
        )
    return policy.live


def score_all(scorer: LiveScorer, releases: Sequence[Release]) -> list[LiveReport]:
    """Score every release that has a canary.

    An error of one adapter does not affect the others. Raises the first error at the end.
    """
    canaries = [release for release in releases if release.canary is not None]
    if not canaries:
        logger.info("no adapter has a canary in %s", scorer.environment)
        return []
    scorers, reports = scorer.scorers(), []
    errors: list[AtelierError] = []
    for release in canaries:
        try:
            reports.append(scorer.score(release, scorers))
        except AtelierError as error:
            logger.error("%s: %s", release.adapter, error)
            errors.append(error)
    if errors:
        raise errors[0]
    return reports


def run(options: argparse.Namespace) -> None:
    """Score the canaries of a namespace, or without --environment those of the home."""
    settings = JobSettings.read()
    home = Home(settings.home)
    if options.environment is None:
        environment = ENVIRONMENT
        releases = ReleaseFolder(home.releases).list()
    else:
        environment = options.environment
        released = listing(Api.connect(options.namespace)).releases.read()
        releases = dict(released.releases.items())
    scorer = LiveScorer(
        Registry(home.tracking_uri),
        home,
        Policy.load(options.policy),
        environment,
        str(settings.torch_device()),
    )
    if scorer.policy.live is None:
        print(NOTHING)
        return
    for report in score_all(scorer, list(releases.values())):
        print(f"{report.adapter}@{report.canary.version}: {report.verdict.decision}")
        for reason in report.verdict.reasons:
            print(f"- {reason}")


def main(arguments: list[str] | None = None) -> int:
    """Run the Job; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.live_scores", description=__doc__)
    parser.add_argument("--environment", help="environment on a cluster; default: this machine")
    parser.add_argument("--namespace", help="its namespace; default: that of the pod")
    parser.add_argument("--policy", type=Path, help="policy file; default: the built-in policy")
    options = parser.parse_args(arguments)
    log_to(sys.stderr, format="%(message)s")
    return run_process(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
