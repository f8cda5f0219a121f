"""Adapter versions in MLflow, with their lineage and attestations.

The serving path does not read from MLflow which version to serve: agents only fetch packages by
version, and verify them against the digest in the release.
"""

from collections.abc import Callable, Iterator, Mapping
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

# Names stored in MLflow: changing them would lose the lineage of all registered versions.
MODEL_PREFIX = "atelier-"  # MLflow refuses `/` in names
CANDIDATE = "candidate"
VERDICT_TAG = "atelier.verdict"  # the decision of the version's newest evaluation
_DIGEST = "atelier.digest"
_ARTIFACTS = "atelier.artifacts"
_BASE = "atelier.base"
_CLASS = "atelier.class"
_NEWEST = 100  # versions that a search for a class reads


@dataclass(frozen=True)
class VersionInfo:
    """One registered version of an adapter, at the time of the look-up.

    Number, digest and run never change; tags and aliases may.
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
        """`name@version`, for messages."""
        return f"{self.name}@{self.version}"

    @property
    def verdict(self) -> str | None:
        """The decision of the newest evaluation, None if the version was never evaluated."""
        return self.tags.get(VERDICT_TAG)


class Registry(Tracking):
    """Versions of adapters, each with its MLflow run and its package's digest.

    `version` looks one up; the other methods take its VersionInfo and do not look it up again.
    Methods raise Unavailable if MLflow cannot be reached.
    """

    def register(
        self, package: Package, *, run_id: str | None, tags: Mapping[str, str] | None = None
    ) -> int:
        """Register a package as the adapter's newest version and `candidate`; return its number.

        A package whose digest is registered keeps its number. Without `run_id` (an import), a run
        is created for the files.
        """
        name = package.manifest.name
        existing = self._with_digest(name, package.digest)
        if existing is not None:
            self.tag(name, existing, tags or {})
            return existing
        run_id = run_id or self._import_run(name)
        folder = self._upload(package, run_id)
        with self._call(f"register {name}"):
            self._ensure_model(name)
            created = self._client.create_model_version(
                MODEL_PREFIX + name,
                source=f"runs:/{run_id}/{folder}",
                run_id=run_id,
                tags={**lineage(package), **(tags or {}), _ARTIFACTS: folder},
            )
        version = self._first_of_twins(name, package.digest, int(created.version))
        self.set_alias(name, CANDIDATE, version)
        return version

    def attest(self, info: VersionInfo, filename: str, data: bytes) -> None:
        """Store an attestation (such as an evaluation or a signature) with the run of a version."""
        folder, _, file = f"{_beside(info)}/{filename}".rpartition("/")
        self.log_bytes(info.run_id, file, data, folder)

    def attestation(self, info: VersionInfo, filename: str) -> bytes | None:
        """Return an attestation of a version, or None."""
        return self.read(info.run_id, f"{_beside(info)}/{filename}")

    def fetch_attested(self, info: VersionInfo, folder: str, into: Path) -> tuple[Path, ...]:
        """Fetch the attestations in a subfolder into the folder `into`; return their paths."""
        stored = f"{_beside(info)}/{folder}"
        if not self.files(info.run_id, stored):
            return ()
        with self._call(f"fetch {stored} of run {info.run_id}"):
            place = Path(self._client.download_artifacts(info.run_id, stored, str(into)))
        return tuple(sorted(file for file in place.iterdir() if file.is_file()))

    def attestations(self, info: VersionInfo) -> tuple[str, ...]:
        """Return the names of all attestations of a version, without those in subfolders."""
        files = self.files(info.run_id, _beside(info))
        return tuple(sorted(file.rpartition("/")[2] for file in files))

    def signatures(self, info: VersionInfo) -> tuple[bytes, ...]:
        """Return all signatures of a version's package, one per key."""
        files = [file for file in self.attestations(info) if is_file(file)]
        signatures = (self.attestation(info, file) for file in files)
        return tuple(signature for signature in signatures if signature is not None)

    def fetch(self, info: VersionInfo, into: Path) -> Package:
        """Fetch a version's package as the folder `into`, which appears once it is verified.

        A valid package in `into` is kept. Processes that fetch into the same folder wait for each
        other. Raises AdapterRejected if the package in MLflow is damaged.
        """
        with locked(into.with_name(f".{into.name}.lock"), temporary=True):
            if into.exists():
                with suppress(AdapterRejected):  # a damaged local copy is replaced
                    return Package.open(into, digest=info.digest)
            with staging(into) as aside:
                self.download(info, aside / "package")
                return Package.open(aside / "package", digest=info.digest).publish(into)

    def download(self, info: VersionInfo, into: Path) -> None:
        """Download the files of a version's package, unverified, as the new folder `into`.

        The caller must verify the files before use.
        """
        stored = _stored(info)
        with staging(into) as aside:
            with self._call(f"fetch {info.label}"):
                self._client.download_artifacts(info.run_id, stored, str(aside))
            (aside / stored).rename(into)

    def manifest(self, info: VersionInfo) -> Manifest:
        """Return a version's verified manifest. Raises AdapterRejected if the digest differs."""
        return Manifest.model_validate_json(self.manifest_text(info))

    def manifest_text(self, info: VersionInfo) -> str:
        """Return the text of `manifest`."""
        data = self.read(info.run_id, f"{_stored(info)}/{MANIFEST}")
        if data is None or sha256_bytes(data) != info.digest:
            problem = "no manifest" if data is None else "a manifest of another digest"
            raise AdapterRejected(
                f"registry: {info.label} ({info.digest}) has {problem}; register the package again"
            )
        return data.decode()

    def version(self, name: str, version: int | str) -> VersionInfo:
        """Return a version by number or alias.

        Raises BadInput, with the known versions, if absent.
        """
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
        """Return the version that an alias names, or None."""
        return next((info for info in self.versions(name) if alias in info.aliases), None)

    def versions(self, name: str) -> tuple[VersionInfo, ...]:
        """Return every version of an adapter, oldest first. Raises BadInput if it is unknown."""
        aliases = self._aliases(name)
        query = f"name='{MODEL_PREFIX}{name}'"
        with self._call(f"list the versions of {name}"):
            entries = list(_entries(self._client.search_model_versions, query))
        infos = [_info(name, entry, aliases) for entry in entries if _DIGEST in entry.tags]
        return tuple(sorted(infos, key=lambda info: info.version))

    def known_versions(self, name: str) -> tuple[VersionInfo, ...]:
        """Return every version of an adapter, oldest first; none if the adapter is unknown."""
        return () if self._model(name) is None else self.versions(name)

    def made_from(self, name: str, tag: str, value: str) -> VersionInfo | None:
        """Return the oldest version with a tag, or None."""
        versions = self.known_versions(name)
        return next((info for info in versions if info.tags.get(tag) == value), None)

    def of_class(self, noun: str, base: str) -> tuple[VersionInfo, ...]:
        """Return versions of adapters of a class on a base, without aliases, the newest first.

        At most `_NEWEST` versions are read. Versions that were registered by an older release of
        the program have no class and are not found.
        """
        quote = "'" if '"' in noun else '"'  # MLflow knows no escape
        with self._call(f"find the adapters of class {noun}"):
            found = self._client.search_model_versions(
                f"tags.`{_CLASS}` = {quote}{noun}{quote} AND tags.`{_BASE}` = '{base}'",
                max_results=_NEWEST,
                order_by=["creation_timestamp DESC"],
            )
        return tuple(_info(entry.name.removeprefix(MODEL_PREFIX), entry, {}) for entry in found)

    def adapters(self) -> tuple[str, ...]:
        """Return the names of all registered adapters."""
        query = f"name LIKE '{MODEL_PREFIX}%'"
        with self._call("list the adapters"):
            models = list(_entries(self._client.search_registered_models, query))
        return tuple(sorted(model.name.removeprefix(MODEL_PREFIX) for model in models))

    def tag(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Add tags to a version."""
        with self._call(f"tag {name}@{version}"):
            for key, value in tags.items():
                self._client.set_model_version_tag(MODEL_PREFIX + name, str(version), key, value)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Move an alias to a version."""
        with self._call(f"set alias {alias} of {name}@{version}"):
            self._client.set_registered_model_alias(MODEL_PREFIX + name, alias, str(version))

    def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias."""
        with self._call(f"remove {name}'s alias {alias}"):
            self._client.delete_registered_model_alias(MODEL_PREFIX + name, alias)

    def _aliases(self, name: str) -> dict[str, int]:
        """Return the aliases of an adapter. Raises BadInput if the adapter is unknown."""
        model = self._model(name)
        if model is None:
            known = ", ".join(self.adapters()) or "none"
            raise BadInput(f"registry: no adapter {name}; known are {known}")
        return {alias: int(version) for alias, version in model.aliases.items()}

    def _model(self, name: str) -> Any | None:
        from mlflow.exceptions import MlflowException

        with self._call(f"find {name}"):
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
        """Return the oldest version with this digest, or None."""
        versions = self.known_versions(name)
        return next((info.version for info in versions if info.digest == digest), None)

    def _first_of_twins(self, name: str, digest: str, version: int) -> int:
        """Return the oldest version with this digest; remove `version` if it is a later one."""
        first = self._with_digest(name, digest)
        if first is not None and first < version:
            with self._call(f"remove the duplicate {name}@{version}"):
                self._client.delete_model_version(MODEL_PREFIX + name, str(version))
            return first
        return version

    def _import_run(self, name: str) -> str:
        run_id = self.start_run("atelier-imports", name)
        self.end_run(run_id)
        return run_id

    def _upload(self, package: Package, run_id: str) -> str:
        """Store the package with its run; return its folder, a new one beside another package.

        A finished training has stored its package already.
        """
        folder = "package"
        manifest = self.read(run_id, f"{folder}/{MANIFEST}")
        if manifest is not None and sha256_bytes(manifest) != package.digest:
            folder, manifest = f"package-{hex_of(package.digest)[:12]}", None
        if manifest is None or not self._is_whole(package, run_id, folder):
            self.log_folder(run_id, package.path, folder)
        return folder

    def _is_whole(self, package: Package, run_id: str, folder: str) -> bool:
        """Return whether every file of the package is stored with its full size."""
        with self._call(f"list the files of run {run_id}"):
            stored = {
                file.path: file.file_size for file in self._client.list_artifacts(run_id, folder)
            }
        local = {f"{folder}/{file.name}": file.stat().st_size for file in package.path.iterdir()}
        return all(stored.get(path) == size for path, size in local.items())


def lineage(package: Package) -> dict[str, str]:
    """Return the tags that record the inputs of a version."""
    manifest = package.manifest
    tags = {
        _DIGEST: package.digest,
        _BASE: manifest.base.digest,
        "atelier.dataset": manifest.dataset,
        "atelier.recipe": manifest.recipe,
        _CLASS: manifest.noun or None,
        "atelier.git_commit": manifest.git_commit,
    }
    return {key: value for key, value in tags.items() if value is not None}


def _beside(info: VersionInfo) -> str:
    """Return the folder of a version's attestations in its run."""
    return f"attestations/{info.version}"


def _stored(info: VersionInfo) -> str:
    """Return the folder of a version's package in its run."""
    return info.tags.get(_ARTIFACTS, "package")


def _entries(search: Callable[..., Any], query: str) -> Iterator[Any]:
    """Yield the results of a search of MLflow, page by page."""
    token: str | None = None
    while token != "":
        page = search(query, page_token=token)
        yield from page
        token = page.token or ""


def _info(name: str, entry: Any, aliases: Mapping[str, int]) -> VersionInfo:
    version = int(entry.version)
    return VersionInfo(
        name=name,
        version=version,
        digest=entry.tags[_DIGEST],
        run_id=entry.run_id,
        tags=dict(entry.tags),
        aliases=tuple(sorted(alias for alias, number in aliases.items() if number == version)),
        created=datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC),
    )
