"""Adapter versions in MLflow: what was made, from what, and what is said about it.

Nothing on the serving path asks here what to serve; agents only fetch packages by version, and
verify them against the digest that their release pins.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atelier.adapter.package import MANIFEST, Package
from atelier.adapter.signature import is_file
from atelier.data.manifest import Manifest
from atelier.data.names import hex_of
from atelier.errors import AdapterRejected, BadInput
from atelier.files import locked, sha256_bytes, staging
from atelier.stores.tracking import Tracking

# The names that a registry holds. A new spelling would lose the lineage of all that is registered.
MODEL_PREFIX = "atelier-"  # MLflow refuses `/` in names
CANDIDATE = "candidate"
_DIGEST = "atelier.digest"
_ARTIFACTS = "atelier.artifacts"


@dataclass(frozen=True)
class VersionInfo:
    """One registered version of an adapter, as it was when it was looked up.

    Its number, digest and run never change; its tags and aliases may have.
    """

    name: str
    version: int
    digest: str
    run_id: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    created: datetime

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name}@{self.version}"


class Registry(Tracking):
    """Versions of adapters, each tied to the run that made it and to its package's digest.

    `version` looks one up; what is done with it afterwards takes the VersionInfo and looks nothing
    up again.
    """

    def register(
        self, package: Package, *, run_id: str | None, tags: Mapping[str, str] | None = None
    ) -> int:
        """Register a package as the adapter's newest version and candidate; its number.

        The same digest again gives the number it already has. Without a run (an import), one is
        made to hold the files.
        """
        name = package.manifest.name
        known = self._with_digest(name, package.digest)
        if known is not None:
            self.tag(name, known, tags or {})
            return known
        run_id = run_id or self._import_run(name)
        folder = self._upload(package, run_id)
        with self._asking(f"register {name}"):
            self._ensure_model(name)
            made = self._client.create_model_version(
                MODEL_PREFIX + name,
                source=f"runs:/{run_id}/{folder}",
                run_id=run_id,
                tags={**lineage(package), **(tags or {}), _ARTIFACTS: folder},
            )
        version = self._first_of_twins(name, package.digest, int(made.version))
        self.set_alias(name, CANDIDATE, version)
        return version

    def attest(self, info: VersionInfo, filename: str, data: bytes) -> None:
        """Put a statement about a version (an evaluation, a signature) beside it."""
        folder, _, file = f"{_beside(info)}/{filename}".rpartition("/")
        self.log_bytes(info.run_id, file, data, folder)

    def attestation(self, info: VersionInfo, filename: str) -> bytes | None:
        """A statement about a version, or None where nobody made it."""
        return self.read(info.run_id, f"{_beside(info)}/{filename}")

    def attestations(self, info: VersionInfo) -> tuple[str, ...]:
        """The names of all statements about a version."""
        files = self.files(info.run_id, _beside(info))
        return tuple(sorted(file.rpartition("/")[2] for file in files))

    def signatures(self, info: VersionInfo) -> tuple[bytes, ...]:
        """All signatures of a version's package, one a key."""
        files = [file for file in self.attestations(info) if is_file(file)]
        found = (self.attestation(info, file) for file in files)
        return tuple(one for one in found if one is not None)

    def fetch(self, info: VersionInfo, into: Path) -> Package:
        """A version's package as the folder `into`, verified once, before it appears there.

        A good one that is there already is used. Processes that fetch into one folder wait for
        each other.
        """
        with locked(into.with_name(f".{into.name}.lock"), temporary=True):
            if into.exists():
                with suppress(AdapterRejected):  # damaged on this side: a fetched one replaces it
                    return Package.open(into, digest=info.digest)
            with staging(into) as aside:
                self.download(info, aside / "package")
                return Package.open(aside / "package", digest=info.digest).publish(into)

    def download(self, info: VersionInfo, into: Path) -> None:
        """Bring the files of a version's package as the new folder `into`.

        They are not verified: whoever asks for them has to, before anything else uses them.
        """
        stored = _stored(info)
        with staging(into) as aside:
            with self._asking(f"fetch {info.label}"):
                self._client.download_artifacts(info.run_id, stored, str(aside))
            (aside / stored).rename(into)

    def manifest(self, info: VersionInfo) -> Manifest:
        """A version's manifest, which its digest vouches for; AdapterRejected where it does not."""
        return Manifest.model_validate_json(self.manifest_text(info))

    def manifest_text(self, info: VersionInfo) -> str:
        """The same as it was written."""
        data = self.read(info.run_id, f"{_stored(info)}/{MANIFEST}")
        if data is None or sha256_bytes(data) != info.digest:
            found = "no manifest" if data is None else "a manifest of another digest"
            raise AdapterRejected(
                f"registry: {info.label} has {found}, but is {info.digest}; register it again"
            )
        return data.decode()

    def version(self, name: str, version: int | str) -> VersionInfo:
        """A version by number or alias; BadInput tells what there is."""
        infos = self.versions(name)
        for info in infos:
            if version in (info.version, str(info.version), *info.aliases):
                return info
        known = ", ".join(str(info.version) for info in infos) or "none"
        aliases = ", ".join(alias for info in infos for alias in info.aliases)
        raise BadInput(
            f"registry: {name} has no version {version}; known are {known}"
            + (f" and the aliases {aliases}" if aliases else "")
        )

    def aliased(self, name: str, alias: str) -> VersionInfo | None:
        """The version that an alias names, or None where it names nothing."""
        return next((info for info in self.versions(name) if alias in info.aliases), None)

    def versions(self, name: str) -> tuple[VersionInfo, ...]:
        """Every version of an adapter, oldest first."""
        aliases = self._aliases(name)
        made = []
        token: str | None = None
        with self._asking(f"list the versions of {name}"):
            while True:
                query = f"name='{MODEL_PREFIX}{name}'"
                page = self._client.search_model_versions(query, page_token=token)
                made += list(page)
                token = page.token
                if not token:
                    break
        infos = [_info(name, one, aliases) for one in made if _DIGEST in one.tags]
        return tuple(sorted(infos, key=lambda info: info.version))

    def made_from(self, name: str, tag: str, value: str) -> VersionInfo | None:
        """The oldest version with a tag, where there is one."""
        if self._model(name) is None:
            return None
        return next((info for info in self.versions(name) if info.tags.get(tag) == value), None)

    def adapters(self) -> tuple[str, ...]:
        """The names of every registered adapter."""
        names: list[str] = []
        token: str | None = None
        with self._asking("list the adapters"):
            while True:
                page = self._client.search_registered_models(
                    f"name LIKE '{MODEL_PREFIX}%'", page_token=token
                )
                names += [model.name.removeprefix(MODEL_PREFIX) for model in page]
                token = page.token
                if not token:
                    return tuple(sorted(names))

    def tag(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Give a version tags, beside those it has."""
        with self._asking(f"tag {name}@{version}"):
            for key, value in tags.items():
                self._client.set_model_version_tag(MODEL_PREFIX + name, str(version), key, value)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Let an alias name a version, and no other one any more."""
        with self._asking(f"name {name}@{version} {alias}"):
            self._client.set_registered_model_alias(MODEL_PREFIX + name, alias, str(version))

    def remove_alias(self, name: str, alias: str) -> None:
        """Let an alias name nothing."""
        with self._asking(f"remove {name}'s alias {alias}"):
            self._client.delete_registered_model_alias(MODEL_PREFIX + name, alias)

    def _aliases(self, name: str) -> dict[str, int]:
        """The adapter's aliases; BadInput where the adapter is unknown."""
        model = self._model(name)
        if model is None:
            known = ", ".join(self.adapters()) or "none"
            raise BadInput(f"registry: there is no adapter {name}; known are {known}")
        return {alias: int(version) for alias, version in model.aliases.items()}

    def _model(self, name: str) -> Any | None:
        from mlflow.exceptions import MlflowException

        with self._asking(f"find {name}"):
            try:
                return self._client.get_registered_model(MODEL_PREFIX + name)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise

    def _ensure_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(MODEL_PREFIX + name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _with_digest(self, name: str, digest: str) -> int | None:
        """The oldest version that has this digest."""
        if self._model(name) is None:
            return None
        found = (info.version for info in self.versions(name) if info.digest == digest)
        return next(found, None)

    def _first_of_twins(self, name: str, digest: str, made: int) -> int:
        """Where two processes registered one digest at once, both take the older version."""
        first = self._with_digest(name, digest)
        if first is not None and first < made:
            with self._asking(f"remove the doubled {name}@{made}"):
                self._client.delete_model_version(MODEL_PREFIX + name, str(made))
            return first
        return made

    def _import_run(self, name: str) -> str:
        run_id = self.start_run("atelier-imports", name)
        self.end_run(run_id)
        return run_id

    def _upload(self, package: Package, run_id: str) -> str:
        """Store the package with its run, never over another one; the folder it went to.

        A training that has finished has stored it already.
        """
        folder = "package"
        manifest = self.read(run_id, f"{folder}/{MANIFEST}")
        if manifest is not None and sha256_bytes(manifest) != package.digest:
            folder, manifest = f"package-{hex_of(package.digest)[:12]}", None
        if manifest is None or not self._is_whole(package, run_id, folder):
            self.log_folder(run_id, package.path, folder)
        return folder

    def _is_whole(self, package: Package, run_id: str, folder: str) -> bool:
        """Whether every file of the package is stored in its full size."""
        with self._asking(f"list the files of run {run_id}"):
            stored = {
                one.path: one.file_size for one in self._client.list_artifacts(run_id, folder)
            }
        here = {f"{folder}/{file.name}": file.stat().st_size for file in package.path.iterdir()}
        return all(stored.get(path) == size for path, size in here.items())


class LazyRegistry:
    """The registry for a process that outlives its absences: each call connects anew.

    Methods raise Unavailable while MLflow is away.
    """

    def __init__(self, tracking_uri: str):
        self._uri = tracking_uri

    def signatures(self, name: str, version: int) -> tuple[bytes, ...]:
        """All signatures of a version's package; none where nobody has signed it."""
        registry = Registry(self._uri)
        return registry.signatures(registry.version(name, version))

    def download(self, name: str, version: int, into: Path) -> None:
        """Bring a version's files as the new folder `into`, not verified."""
        registry = Registry(self._uri)
        registry.download(registry.version(name, version), into)


def lineage(package: Package) -> dict[str, str]:
    """The tags that say what a version was made from."""
    manifest = package.manifest
    tags = {
        _DIGEST: package.digest,
        "atelier.base": manifest.base.digest,
        "atelier.dataset": manifest.dataset,
        "atelier.recipe": manifest.recipe,
        "atelier.git_commit": manifest.git_commit,
    }
    return {key: value for key, value in tags.items() if value is not None}


def _beside(info: VersionInfo) -> str:
    """The folder of a version's run that holds what is said about it."""
    return f"attestations/{info.version}"


def _stored(info: VersionInfo) -> str:
    """The folder of a version's run that holds its package."""
    return info.tags.get(_ARTIFACTS, "package")


def _info(name: str, made: Any, aliases: Mapping[str, int]) -> VersionInfo:
    version = int(made.version)
    return VersionInfo(
        name=name,
        version=version,
        digest=made.tags[_DIGEST],
        run_id=made.run_id,
        tags=dict(made.tags),
        aliases=tuple(sorted(alias for alias, number in aliases.items() if number == version)),
        created=datetime.fromtimestamp(made.creation_timestamp / 1000, UTC),
    )
