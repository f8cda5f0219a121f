"""Artifacts in MLflow, addressed by digest: bases, datasets, recipes and compiled engines.

An artifact is a folder of files, stored with a run of the experiment `atelier/<kind>`: the files
below `files/`, and `index.json`, written last, with the size and SHA-256 of each. A fetch verifies
every file against the index, and the index against the address.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from atelier.data.names import ArtifactKind, ArtifactRef, Digest, hex_of
from atelier.errors import ArtifactError, BadInput, Unavailable
from atelier.files import digest_lines, locked, replace_folder, sha256_file
from atelier.stores.tracking import Tracking
from atelier.validation import summary

Progress = Callable[[str, int, int], None]  # description, MiB so far, MiB in total

INDEX, FILES = "index.json", "files"
_PART = ".part"  # unfinished downloads; the name is fixed, so the next process removes leftovers
_LOCK = ".lock"  # guards `_PART`
# Kinds whose key is the digest of the files. The key of a recipe is the digest of its content, and
# the key of an engine is the digest of its inputs; code that fetches one must check its content.
BY_CONTENT: tuple[ArtifactKind, ...] = ("bases", "vaes", "scorers", "datasets")
_KEY_TAG, _SOURCE_TAG = "atelier.key", "atelier.source"


def known_as(model: str, revision: str | None = None) -> str:
    """Return the public name of a model, the `source` of `Artifacts.named`."""
    return f"{model}@{revision}" if revision else model


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    sha256: Digest


class Index(BaseModel):
    """The files of an artifact, by path relative to its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, _Entry] = Field(min_length=1)

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, _Entry]) -> dict[str, _Entry]:
        for path in files:
            parts = PurePosixPath(path)
            if parts.is_absolute() or ".." in parts.parts or str(parts) != path or path == ".":
                raise ValueError(f"{path!r} is not a path inside the artifact")
        return files

    @classmethod
    def read(cls, root: Path, files: Iterable[Path]) -> Self:
        """Read sizes and digests of files below `root`."""
        by_path = {file.relative_to(root).as_posix(): file for file in sorted(files)}
        entries = {
            path: _Entry(size=file.stat().st_size, sha256=sha256_file(file))
            for path, file in by_path.items()
        }
        return cls(files=entries)

    @property
    def digest(self) -> str:
        """The digest over names and contents, equal to `atelier.files.digest_files`."""
        return digest_lines({path: entry.sha256 for path, entry in self.files.items()})

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(entry.size for entry in self.files.values())


class Artifacts(Tracking):
    """Folders in MLflow, by digest.

    Methods raise Unavailable if MLflow cannot be reached, ArtifactError if an artifact is missing
    or damaged.
    """

    def exists(self, ref: ArtifactRef) -> bool:
        """Return whether the artifact is stored completely."""
        return self._finished(ref) is not None

    def put(
        self,
        ref: ArtifactRef,
        root: Path,
        files: Iterable[Path] | None = None,
        *,
        source: str | None = None,
        progress: Progress | None = None,
    ) -> bool:
        """Upload the missing files of an artifact; return whether there were any.

        `files` are below `root`; the default is all files below it. `source` is a public name for
        `named`. An interrupted upload is resumed. The artifact becomes visible when the upload is
        complete.
        """
        paths = list(files) if files is not None else [f for f in root.rglob("*") if f.is_file()]
        index = Index.read(root, paths)
        if ref.kind in BY_CONTENT and hex_of(index.digest) != ref.key:
            raise ArtifactError(
                f"{root}: the files have digest {index.digest}, not {ref.key}; restore the files, "
                "or register them as a new artifact"
            )
        run = self._finished(ref) or self._begun(ref)
        if run is None:
            run = self.start_run(f"atelier/{ref.kind}", ref.key[:12], {_KEY_TAG: ref.key})
        missing = self._missing(run, index)
        upload = _Megabytes(
            f"uploading {ref.kind}", sum(i.size for i in missing.values()), progress
        )
        for path, entry in missing.items():
            folder = (PurePosixPath(FILES) / path).parent
            self.log_file(run, root / path, str(folder))
            upload.add(entry.size)
        if lost := self._missing(run, index):
            raise Unavailable(f"{ref}: MLflow did not store {', '.join(lost)}; try again")
        self._close(run, index, source)
        return bool(missing)

    def get(self, ref: ArtifactRef, into: Path, *, progress: Progress | None = None) -> Path:
        """Fetch an artifact as the folder `into`, which appears once complete and verified."""
        run, index = self._index(ref)
        with locked(into.parent / _LOCK):
            if into.is_dir() and _is_whole(into, index):
                return into
            # The name is fixed, so that the download of a killed process is resumed.
            aside = into.with_name(f".{into.name}{_PART}")
            try:
                self._bring(ref, run, index, aside, progress)
                replace_folder(aside, into)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        return into

    def fill(self, ref: ArtifactRef, folder: Path, *, progress: Progress | None = None) -> int:
        """Fetch the missing files of an artifact into an existing folder; return their bytes.

        This serves the mount point of a volume, which cannot be renamed. Each file appears once it
        is complete and verified. Processes that fill the same folder wait for each other.
        """
        run, index = self._index(ref)
        with locked(folder / _LOCK, temporary=True):
            return self._bring(ref, run, index, folder, progress)

    def named(self, kind: ArtifactKind, source: str) -> ArtifactRef | None:
        """Return the newest artifact with the public name `source`, or None."""
        runs = self._search(kind, f"tags.`{_SOURCE_TAG}` = '{_quoted(source)}'")
        keys = [run.data.tags.get(_KEY_TAG) for run in runs if run.info.status == "FINISHED"]
        return ArtifactRef(kind, keys[-1]) if keys and keys[-1] else None

    def mark(self, ref: ArtifactRef, spec: str) -> None:
        """Record the digest of a spec that produced this artifact; there may be several."""
        run = self._finished(ref)
        if run is None:
            raise ArtifactError(f"{ref}: is not in MLflow at {self.uri}; {_way_out(ref)}")
        self.set_tags(run, {_spec_tag(spec): "made"})

    def made_from(self, kind: ArtifactKind, spec: str) -> ArtifactRef | None:
        """Return the artifact that a spec produced (see `mark`), or None."""
        runs = self._search(kind, f"tags.`{_spec_tag(spec)}` = 'made'")
        keys = [run.data.tags.get(_KEY_TAG) for run in runs if run.info.status == "FINISHED"]
        return ArtifactRef(kind, keys[0]) if keys and keys[0] else None

    def _bring(
        self, ref: ArtifactRef, run: str, index: Index, folder: Path, progress: Progress | None
    ) -> int:
        missing = {p: entry for p, entry in index.files.items() if not _is(folder / p, entry)}
        size = sum(entry.size for entry in missing.values())
        download = _Megabytes(f"fetching {ref.kind}", size, progress)
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / _PART
        try:
            for path, entry in missing.items():
                arrived = self._download(ref, run, path, entry, aside)
                final = folder / path
                final.parent.mkdir(parents=True, exist_ok=True)
                arrived.replace(final)
                download.add(entry.size)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return size

    def _download(self, ref: ArtifactRef, run: str, path: str, entry: _Entry, aside: Path) -> Path:
        """Download one file below `aside` and verify it; retry once if it arrives damaged."""
        for _ in range(2):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            with self._call(f"fetch {path} of {ref}"):
                file = Path(self._client.download_artifacts(run, f"{FILES}/{path}", str(aside)))
            if _is(file, entry):
                return file
        raise ArtifactError(
            f"{ref}: {path} in MLflow does not match its index (run {run}); delete that run and "
            "register the artifact again"
        )

    def _index(self, ref: ArtifactRef) -> tuple[str, Index]:
        """Return the run that contains an artifact, and its verified index."""
        run = self._finished(ref)
        data = self.read(run, INDEX) if run else None
        if run is None or data is None:
            raise ArtifactError(f"{ref}: is not in MLflow at {self.uri}; {_way_out(ref)}")
        try:
            index = Index.model_validate_json(data)
        except ValidationError as error:
            text = f"{INDEX} of run {run} is damaged ({summary(error)}); {_way_out(ref)}"
            raise ArtifactError(f"{ref}: {text}") from error
        if ref.kind in BY_CONTENT and hex_of(index.digest) != ref.key:
            raise ArtifactError(
                f"{ref}: run {run} contains another artifact ({index.digest}); delete that run and "
                "register the artifact again"
            )
        return run, index

    def _missing(self, run: str, index: Index) -> dict[str, _Entry]:
        """Return the files that are not stored with their full size."""
        folders = {str((PurePosixPath(FILES) / path).parent) for path in index.files}
        sizes: dict[str, int] = {}
        with self._call(f"list the files of run {run}"):
            for folder in sorted(folders):
                files = self._client.list_artifacts(run, folder)
                # MLflow's server omits the size of an empty file.
                sizes |= {file.path: file.file_size or 0 for file in files if not file.is_dir}
        return {p: e for p, e in index.files.items() if sizes.get(f"{FILES}/{p}") != e.size}

    def _close(self, run: str, index: Index, source: str | None) -> None:
        """Write the index and the tags, and end the run, which makes the artifact visible."""
        text = json.dumps(index.model_dump(mode="json"), indent=1).encode()
        if self.read(run, INDEX) != text:
            self.log_bytes(run, INDEX, text)
        tags = {"atelier.digest": index.digest, "atelier.bytes": str(index.size)}
        self.set_tags(run, tags | ({_SOURCE_TAG: source} if source else {}))
        self.end_run(run)

    def _finished(self, ref: ArtifactRef) -> str | None:
        """Return the run of a complete artifact."""
        return self._run(ref, "FINISHED")

    def _begun(self, ref: ArtifactRef) -> str | None:
        """Return a run whose upload was interrupted."""
        return self._run(ref, "RUNNING")

    def _run(self, ref: ArtifactRef, status: str) -> str | None:
        runs = self._search(ref.kind, f"tags.`{_KEY_TAG}` = '{ref.key}'")
        return next((str(run.info.run_id) for run in runs if run.info.status == status), None)

    def _search(self, kind: ArtifactKind, condition: str) -> list[Any]:
        """Return the runs of a kind that meet a condition, oldest first."""
        with self._call(f"find {kind}"):
            experiment = self._client.get_experiment_by_name(f"atelier/{kind}")
            if experiment is None:
                return []
            order = ["attributes.start_time ASC"]
            return list(
                self._client.search_runs([experiment.experiment_id], condition, order_by=order)
            )


class _Megabytes:
    """Reports progress in whole MiB."""

    def __init__(self, description: str, size: int, progress: Progress | None) -> None:
        self._description, self._size, self._done, self._progress = description, size, 0, progress

    def add(self, size: int) -> None:
        """Count `size` more bytes as done."""
        self._done += size
        if self._progress:
            self._progress(self._description, self._done >> 20, max(self._size >> 20, 1))


def _is(file: Path, entry: _Entry) -> bool:
    """Return whether a file matches its entry in the index."""
    with suppress(OSError):
        return file.stat().st_size == entry.size and sha256_file(file) == entry.sha256
    return False


def _is_whole(folder: Path, index: Index) -> bool:
    """Return whether a folder contains exactly the files of an index."""
    present = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    return present == set(index.files) and all(_is(folder / p, e) for p, e in index.files.items())


def _way_out(ref: ArtifactRef) -> str:
    verbs: Mapping[ArtifactKind, str] = {
        "bases": "register it with `atelier base import MODEL`",
        "scorers": "register it with `atelier scorer import MODEL`",
        "engines": "compile it with `atelier compile`",
    }
    return verbs.get(ref.kind, "submit the recipe again with `atelier submit RECIPE`")


def _spec_tag(spec: str) -> str:
    """Return the tag of a spec.

    An artifact may have several: the specs of two images may give the same files.
    """
    return f"atelier.spec.{hex_of(spec)}"


def _quoted(text: str) -> str:
    """Return a text for MLflow's search, which has no escape for quotes."""
    if "'" in text:
        raise BadInput(f"{text!r}: a name that contains ' cannot be looked up; rename it")
    return text
