"""Where git, the cluster and MLflow disagree about what serves, each said with both sides."""

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
    """One adapter as each side has it. `ready` of `replicas` could serve it at once."""

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
    """Every adapter of an environment as git, the cluster and MLflow have it."""

    environment: str
    lines: tuple[StatusLine, ...]
    registry_problem: str = ""  # why aliases were not compared

    @property
    def differences(self) -> list[str]:
        """Each disagreement, with its adapter."""
        return [f"{line.adapter}: {text}" for line in self.lines for text in line.differences]

    @property
    def exit_code(self) -> ExitCode:
        """REFUSED where the sides disagree, UNAVAILABLE where not all could be compared."""
        if self.differences:
            return ExitCode.REFUSED
        return ExitCode.UNAVAILABLE if self.registry_problem else ExitCode.DONE


def environment_status(releases: AdapterReleases) -> EnvironmentStatus:
    """Ask git, Helm, the cluster and MLflow about every adapter.

    With MLflow away the aliases are not compared. Raises Unavailable where the cluster is away.
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
    revisions: Mapping[str, Revision],  # Helm's newest by adapter
    versions: Mapping[str, Iterable[VersionInfo]] | None,  # MLflow's by adapter; None: it is away
    replicas: Iterable[Replica],
) -> list[StatusLine]:
    """A line for every adapter that git, cluster or alias know of."""
    there = list(replicas)
    aliases = {
        name: one
        for name, found in (versions or {}).items()
        for one in found
        if environment in one.aliases
    }
    names = {*declared, *released.releases, *released.unreadable, *revisions, *aliases}
    lines = []
    for name in sorted(names):
        live, said, alias = released.releases.get(name), declared.get(name), aliases.get(name)
        revision = revisions.get(name)
        fitting = [one for one in there if live and live.fits(one)]
        held = [live and one.holds(name, live.digest) for one in fitting]
        ready = sum(bool(one) and one.state == "ready" for one in held)  # type: ignore[union-attr]
        told = [
            *([released.unreadable[name]] if name in released.unreadable else []),
            *_git_and_cluster(environment, said, live, revision),
            *_helm(revision),
            *(
                _cluster_and_mlflow(environment, live, alias, versions)
                if versions is not None  # an empty MLflow is not away: it has lost something
                else ()
            ),
        ]
        if live and ready < len(fitting):
            told.append(f"version {live.version} is ready on {ready} of {len(fitting)} replicas")
        number = alias.version if alias else None
        line = StatusLine(name, said, live, revision, number, ready, len(fitting), tuple(told))
        lines.append(line)
    return lines


def _git_and_cluster(
    environment: str, said: Declaration | None, live: Release | None, revision: Revision | None
) -> Iterator[str]:
    git = f"git declares {_what(said)} in {environment}"
    since = f" (Helm revision {revision.number}: {revision.reason})" if revision else ""
    cluster = f"the cluster serves {_what(live)}{since}"
    if said is None or live is None:
        if (said is None) != (live is None):
            yield f"{git}, {cluster}"
    elif _what(said) != _what(live):
        yield f"{git}, {cluster}"
    elif not said.is_live(live):
        drawn = [base_label(one.base, one.vae) for one in (said, live)]
        yield f"{git} with {drawn[0]}, {cluster} with {drawn[1]}"
    if said and live:
        serves = {pin.digest for pin in live.served}
        for one in said.withdrawn:
            if one.digest in serves:
                yield f"the cluster serves version {one.version}, withdrawn in git: {one.reason}"


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
        yield f"the cluster serves {_what(live)}, alias {environment} in MLflow names {named}"
    if live is None:
        return
    known = {one.version: one.digest for one in versions.get(live.adapter, ())}
    for pin in live.served:
        if known.get(pin.version) != pin.digest:
            found = known.get(pin.version, "no such version")
            yield f"the cluster serves version {pin.version} as {pin.digest}, MLflow has {found}"


def _what(one: Declaration | Release | None) -> str:
    if one is None:
        return "nothing"
    canary: Canary | None = one.canary
    share = f" with version {canary.version} to {canary.percent} %" if canary else ""
    return f"version {one.version} ({one.digest[:19]}…){share}"
