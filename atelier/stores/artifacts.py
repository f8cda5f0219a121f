"""What is used by digest wherever it is needed: bases, datasets, recipes and engines in MLflow.

An artifact is a folder of files, kept by a run of the experiment `atelier/<kind>`: the files below
`files/`, and `index.json`, written last, with the size and sha256 of each. Whoever fetches one
checks every file against the index, and the index against the address.
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

Progress = Callable[[str, int, int], None]  # what is done, MiB so far, MiB in all

INDEX, FILES = "index.json", "files"
_PART = ".part"  # where what is on its way lies: one name, so that the next process clears it away
_LOCK = ".lock"  # whose holder alone uses that name
# Their keys are the digests of their files. A recipe's is of what it says, and an engine's of what
# it was compiled from: whoever fetches one of those looks into it.
BY_CONTENT: tuple[ArtifactKind, ...] = ("bases", "vaes", "scorers", "datasets")
_KEY_TAG, _SOURCE_TAG = "atelier.key", "atelier.source"


def known_as(model: str, revision: str | None = None) -> str:
    """The name by which people know a model, as `Artifacts.named` finds it."""
    return f"{model}@{revision}" if revision else model


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    sha256: Digest


class Index(BaseModel):
    """What an artifact consists of, by path relative to its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, _Entry] = Field(min_length=1)

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, _Entry]) -> dict[str, _Entry]:
        for path in files:
            parts = PurePosixPath(path)
            if parts.is_absolute() or ".." in parts.parts or str(parts) != path or path == ".":
                raise ValueError(f"{path!r} is no path inside the artifact")
        return files

    @classmethod
    def read(cls, root: Path, files: Iterable[Path]) -> Self:
        """Sizes and digests of the files, which lie below `root`."""
        found = {file.relative_to(root).as_posix(): file for file in sorted(files)}
        entries = {
            path: _Entry(size=file.stat().st_size, sha256=sha256_file(file))
            for path, file in found.items()
        }
        return cls(files=entries)

    @property
    def digest(self) -> str:
        """Over names and contents, as `atelier.files.digest_files` has it."""
        return digest_lines({path: entry.sha256 for path, entry in self.files.items()})

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())


class Artifacts(Tracking):
    """Folders by digest. Methods raise Unavailable where MLflow is away, ArtifactError where what
    it holds is missing or damaged."""

    def exists(self, ref: ArtifactRef) -> bool:
        """Whether it is there whole."""
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
        """Upload what is missing of the files below `root` (by default all); whether any was.

        `source` is the name by which people know it (see `named`). An upload that was interrupted
        is gone on with; until its end nobody finds the artifact.
        """
        every = list(files) if files is not None else [f for f in root.rglob("*") if f.is_file()]
        index = Index.read(root, every)
        if ref.kind in BY_CONTENT and hex_of(index.digest) != ref.key:
            raise ArtifactError(f"{root}: its files have digest {index.digest}, not {ref.key}")
        run = self._finished(ref) or self._begun(ref)
        if run is None:
            run = self.start_run(f"atelier/{ref.kind}", ref.key[:12], {_KEY_TAG: ref.key})
        missing = self._missing(run, index)
        shown = _Megabytes(f"uploading {ref.kind}", sum(i.size for i in missing.values()), progress)
        for path, entry in missing.items():
            folder = (PurePosixPath(FILES) / path).parent
            self.log_file(run, root / path, str(folder))
            shown.add(entry.size)
        if lost := self._missing(run, index):
            raise Unavailable(f"{ref}: MLflow did not keep {', '.join(lost)}; try again")
        self._close(run, index, source)
        return bool(missing)

    def get(self, ref: ArtifactRef, into: Path, *, progress: Progress | None = None) -> Path:
        """The artifact as the folder `into`, whole and verified before it appears there."""
        run, index = self._index(ref)
        with locked(into.parent / _LOCK):
            if into.is_dir() and _is_whole(into, index):
                return into
            # Always of one name: what a killed process left there is gone on with.
            aside = into.with_name(f".{into.name}{_PART}")
            try:
                self._bring(ref, run, index, aside, progress)
                replace_folder(aside, into)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        return into

    def fill(self, ref: ArtifactRef, folder: Path, *, progress: Progress | None = None) -> int:
        """Bring what is missing of the artifact into a folder that is there; the bytes brought.

        For a volume's mount point, which cannot be renamed: there each file appears whole and
        verified, and the folder is complete when this returns. Processes that fill one folder wait
        for each other.
        """
        run, index = self._index(ref)
        with locked(folder / _LOCK, temporary=True):
            return self._bring(ref, run, index, folder, progress)

    def named(self, kind: ArtifactKind, source: str) -> ArtifactRef | None:
        """What was last put under a name that people know."""
        found = self._search(kind, f"tags.`{_SOURCE_TAG}` = '{_quoted(source)}'")
        keys = [run.data.tags.get(_KEY_TAG) for run in found if run.info.status == "FINISHED"]
        return ArtifactRef(kind, keys[-1]) if keys and keys[-1] else None

    def mark(self, ref: ArtifactRef, spec: str) -> None:
        """Note the digest of a spec that came to this artifact; several may (see `made_from`)."""
        run = self._finished(ref)
        if run is None:
            raise ArtifactError(f"{ref}: is not in MLflow at {self.uri}; {_way_out(ref)}")
        self.set_tags(run, {_spec_tag(spec): "made"})

    def made_from(self, kind: ArtifactKind, spec: str) -> ArtifactRef | None:
        """What a spec came to, where it has been carried out and what was made is still there."""
        found = self._search(kind, f"tags.`{_spec_tag(spec)}` = 'made'")
        keys = [run.data.tags.get(_KEY_TAG) for run in found if run.info.status == "FINISHED"]
        return ArtifactRef(kind, keys[0]) if keys and keys[0] else None

    def _bring(
        self, ref: ArtifactRef, run: str, index: Index, folder: Path, progress: Progress | None
    ) -> int:
        missing = {p: entry for p, entry in index.files.items() if not _is(folder / p, entry)}
        size = sum(entry.size for entry in missing.values())
        shown = _Megabytes(f"fetching {ref.kind}", size, progress)
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / _PART
        try:
            for path, entry in missing.items():
                arrived = self._download(ref, run, path, entry, aside)
                final = folder / path
                final.parent.mkdir(parents=True, exist_ok=True)
                arrived.replace(final)
                shown.add(entry.size)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return size

    def _download(self, ref: ArtifactRef, run: str, path: str, entry: _Entry, aside: Path) -> Path:
        """One verified file below `aside`; a connection may break in the middle, so it is asked
        for twice."""
        for _ in range(2):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            with self._asking(f"fetch {path} of {ref}"):
                file = Path(self._client.download_artifacts(run, f"{FILES}/{path}", str(aside)))
            if _is(file, entry):
                return file
        raise ArtifactError(
            f"{ref}: {path} in MLflow is not what its index says (run {run}); delete that run and "
            "register the artifact again"
        )

    def _index(self, ref: ArtifactRef) -> tuple[str, Index]:
        """The run that holds an artifact, and its verified index."""
        run = self._finished(ref)
        data = self.read(run, INDEX) if run else None
        if run is None or data is None:
            raise ArtifactError(f"{ref}: is not in MLflow at {self.uri}; {_way_out(ref)}")
        try:
            index = Index.model_validate_json(data)
        except ValidationError as error:
            told = f"{INDEX} of run {run} is damaged ({summary(error)})"
            raise ArtifactError(f"{ref}: {told}") from error
        if ref.kind in BY_CONTENT and hex_of(index.digest) != ref.key:
            raise ArtifactError(f"{ref}: run {run} holds something else ({index.digest})")
        return run, index

    def _missing(self, run: str, index: Index) -> dict[str, _Entry]:
        """The files that are not stored in their full size."""
        folders = {str((PurePosixPath(FILES) / path).parent) for path in index.files}
        sizes: dict[str, int] = {}
        with self._asking(f"list the files of run {run}"):
            for folder in sorted(folders):
                found = self._client.list_artifacts(run, folder)
                # a server leaves the size of an empty file out
                sizes |= {one.path: one.file_size or 0 for one in found if not one.is_dir}
        return {p: e for p, e in index.files.items() if sizes.get(f"{FILES}/{p}") != e.size}

    def _close(self, run: str, index: Index, source: str | None) -> None:
        """The index, the tags that it is found by, and the word that it is whole."""
        text = json.dumps(index.model_dump(mode="json"), indent=1).encode()
        if self.read(run, INDEX) != text:
            self.log_bytes(run, INDEX, text)
        tags = {"atelier.digest": index.digest, "atelier.bytes": str(index.size)}
        self.set_tags(run, tags | ({_SOURCE_TAG: source} if source else {}))
        self.end_run(run)

    def _finished(self, ref: ArtifactRef) -> str | None:
        """The run that holds an artifact whole."""
        return self._run(ref, "FINISHED")

    def _begun(self, ref: ArtifactRef) -> str | None:
        """A run whose upload came to no end."""
        return self._run(ref, "RUNNING")

    def _run(self, ref: ArtifactRef, status: str) -> str | None:
        found = self._search(ref.kind, f"tags.`{_KEY_TAG}` = '{ref.key}'")
        return next((str(run.info.run_id) for run in found if run.info.status == status), None)

    def _search(self, kind: ArtifactKind, condition: str) -> list[Any]:
        """Runs of a kind, oldest first."""
        with self._asking(f"find {kind}"):
            experiment = self._client.get_experiment_by_name(f"atelier/{kind}")
            if experiment is None:
                return []
            order = ["attributes.start_time ASC"]
            return list(
                self._client.search_runs([experiment.experiment_id], condition, order_by=order)
            )


class _Megabytes:
    """Tells progress in whole MiB."""

    def __init__(self, doing: str, size: int, progress: Progress | None) -> None:
        self._doing, self._size, self._done, self._progress = doing, size, 0, progress

    def add(self, size: int) -> None:
        self._done += size
        if self._progress:
            self._progress(self._doing, self._done >> 20, max(self._size >> 20, 1))


def _is(file: Path, entry: _Entry) -> bool:
    """Whether a file is what an index says."""
    with suppress(OSError):
        return file.stat().st_size == entry.size and sha256_file(file) == entry.sha256
    return False


def _is_whole(folder: Path, index: Index) -> bool:
    """Whether a folder holds what an index says, and nothing else."""
    there = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    return there == set(index.files) and all(_is(folder / p, e) for p, e in index.files.items())


def _way_out(ref: ArtifactRef) -> str:
    verbs: Mapping[ArtifactKind, str] = {
        "bases": "register it by `atelier base import MODEL`",
        "scorers": "register it by `atelier scorer import MODEL`",
        "engines": "make it by `atelier compile`",
    }
    return verbs.get(ref.kind, "submit the recipe again: `atelier submit RECIPE`")


def _spec_tag(spec: str) -> str:
    """A tag for each spec: different ones, of two images say, may come to one artifact."""
    return f"atelier.spec.{hex_of(spec)}"


def _quoted(text: str) -> str:
    """A text as MLflow's search takes it; it knows no way to write a quote inside one."""
    if "'" in text:
        raise BadInput(f"{text!r}: a name with ' in it cannot be looked up")
    return text
