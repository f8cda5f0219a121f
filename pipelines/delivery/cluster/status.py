"""Compare git, the cluster and MLflow: every difference is reported with both values."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from atelier.contract.replica import Replica, base_label
from atelier.data.declaration import Declaration
from atelier.data.release import Canary, Release
from atelier.errors import ExitCode, Unavailable
from atelier.platform import listing
from atelier.platform.helm import Revision
from atelier.stores.environment import Released
from atelier.stores.registry import VersionInfo
from pipelines.delivery.cluster.releases import AdapterReleases


@dataclass(frozen=True)
class StatusLine:
    """One adapter in git, the cluster and MLflow. `ready` of `replicas` have its version ready."""

    adapter: str
    declared: Declaration | None
    live: Release | None
    revision: Revision | None
    alias: int | None
    ready: int
    replicas: int
    differences: tuple[str, ...]


@dataclass(frozen=True)
class EnvironmentStatus:
    """The comparison of git, the cluster and MLflow for every adapter of an environment."""

    environment: str
    lines: tuple[StatusLine, ...]
    registry_problem: str = ""  # the reason if aliases were not compared

    @property
    def differences(self) -> list[str]:
        """Every difference, with its adapter."""
        return [f"{line.adapter}: {text}" for line in self.lines for text in line.differences]

    @property
    def exit_code(self) -> ExitCode:
        """REFUSED if there are differences, UNAVAILABLE if aliases were not compared."""
        if self.differences:
            return ExitCode.REFUSED
        return ExitCode.UNAVAILABLE if self.registry_problem else ExitCode.DONE


def environment_status(releases: AdapterReleases) -> EnvironmentStatus:
    """Read git, Helm, the cluster and MLflow, and compare every adapter.

    If MLflow is unavailable, the aliases are not compared. Raises Unavailable if the
    cluster does not respond.
    """
    environment = listing(releases.api)
    released, declared = environment.releases.read(), releases.declarations.list()
    names = {*declared, *released.releases, *released.unreadable}
    revisions = {name: history[-1] for name in names if (history := releases.helm.history(name))}
    problem = ""
    try:
        registry = releases.registry()
        versions = {name: registry.versions(name) for name in registry.adapters()}
    except Unavailable as error:
        versions, problem = None, f"aliases are not compared: {error}"
    lines = compare(
        releases.environment,
        declared,
        released,
        revisions,
        versions,
        environment.replicas.live(),
    )
    return EnvironmentStatus(releases.environment, tuple(lines), problem)


def compare(
    environment: str,
    declared: Mapping[str, Declaration],
    released: Released,
    revisions: Mapping[str, Revision],  # the newest one by adapter
    versions: Mapping[str, Iterable[VersionInfo]] | None,  # by adapter; None: MLflow is unavailable
    replicas: Iterable[Replica],
) -> list[StatusLine]:
    """Return a line for every adapter with a declaration, a release or the alias."""
    replicas = list(replicas)
    aliases = {
        name: version
        for name, infos in (versions or {}).items()
        for version in infos
        if environment in version.aliases
    }
    names = {*declared, *released.releases, *released.unreadable, *revisions, *aliases}
    lines = []
    for name in sorted(names):
        live, declaration = released.releases.get(name), declared.get(name)
        alias, revision = aliases.get(name), revisions.get(name)
        fitting = [replica for replica in replicas if live and live.fits(replica)]
        entries = [live and replica.holds(name, live.digest) for replica in fitting]
        ready = sum(bool(entry) and entry.state == "ready" for entry in entries)  # type: ignore[union-attr]
        differences = [
            *([released.unreadable[name]] if name in released.unreadable else []),
            *_git_and_cluster(environment, declaration, live, revision),
            *_helm(revision),
            *(
                _cluster_and_mlflow(environment, live, alias, versions)
                if versions is not None  # empty: MLflow has lost its versions
                else ()
            ),
        ]
        if live and ready < len(fitting):
            differences.append(
                f"version {live.version} is ready on {ready} of {len(fitting)} replicas"
            )
        number = alias.version if alias else None
        lines.append(
            StatusLine(
                name,
                declaration,
                live,
                revision,
                number,
                ready,
                len(fitting),
                tuple(differences),
            )
        )
    return lines


def _git_and_cluster(
    environment: str, declared: Declaration | None, live: Release | None, revision: Revision | None
) -> Iterator[str]:
    git = f"git declares {_describe(declared)} in {environment}"
    since = f" (Helm revision {revision.number}: {revision.reason})" if revision else ""
    cluster = f"the cluster serves {_describe(live)}{since}"
    if declared is None or live is None:
        if (declared is None) != (live is None):
            yield f"{git}, but {cluster}"
    elif _describe(declared) != _describe(live):
        yield f"{git}, but {cluster}"
    elif not declared.is_live(live):
        in_git, in_cluster = (base_label(side.base, side.vae) for side in (declared, live))
        yield f"{git} with {in_git}, but {cluster} with {in_cluster}"
    if declared and live:
        serves = {pin.digest for pin in live.served}
        for pin in declared.withdrawn:
            if pin.digest in serves:
                yield f"the cluster serves version {pin.version}, withdrawn in git: {pin.reason}"


def _helm(revision: Revision | None) -> Iterator[str]:
    if revision and revision.status != "deployed":
        yield (
            f"Helm revision {revision.number} is {revision.status}, not deployed: {revision.reason}"
        )


def _cluster_and_mlflow(
    environment: str,
    live: Release | None,
    alias: VersionInfo | None,
    versions: Mapping[str, Iterable[VersionInfo]],
) -> Iterator[str]:
    if (live.version if live else None) != (alias.version if alias else None):
        named = f"version {alias.version}" if alias else "no version"
        yield (
            f"the cluster serves {_describe(live)}, but alias {environment} in MLflow names {named}"
        )
    if live is None:
        return
    digests = {info.version: info.digest for info in versions.get(live.adapter, ())}
    for pin in live.served:
        if digests.get(pin.version) != pin.digest:
            stored = digests.get(pin.version, "no such version")
            yield (
                f"the cluster serves version {pin.version} as {pin.digest}, but MLflow has {stored}"
            )


def _describe(served: Declaration | Release | None) -> str:
    if served is None:
        return "nothing"
    canary: Canary | None = served.canary
    share = f" with version {canary.version} to {canary.percent} %" if canary else ""
    return f"version {served.version} ({served.digest[:19]}…){share}"
