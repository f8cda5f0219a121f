"""Releases: the serving version of an adapter in an environment, and its history.

A release pins version and digest, never an alias, so it alone determines the serving version.
"""

import builtins
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atelier.data.names import AdapterName, Digest
from atelier.errors import ReleaseError
from atelier.files import write_atomic
from atelier.validation import summary

HISTORY = 10  # past revisions, as many as Helm keeps


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pin(_Plain):
    """A version of an adapter with its digest."""

    version: int = Field(ge=1)
    digest: Digest


class Canary(Pin):
    """A version that gets a share of the adapter's requests, in percent."""

    percent: int = Field(ge=1, le=100)


class Past(Pin):
    """A past version.

    A rollback from it marks it as withdrawn; later rollbacks skip it by default.
    """

    base: Digest
    vae: Digest | None = None
    revision: int
    reason: str
    since: datetime
    withdrawn: bool = False


class Drawing(Protocol):
    """The fields of a replica that a release needs."""

    @property
    def base(self) -> str:
        """The digest of the base."""

    @property
    def vae(self) -> str | None:
        """The digest of the VAE; None: the VAE of the base."""


class Release(_Plain):
    """An immutable release of an adapter in one environment; `revision` counts the changes."""

    adapter: AdapterName
    base: Digest
    vae: Digest | None = None  # of the evaluation; None: the VAE of the base
    version: int = Field(ge=1)
    digest: Digest
    canary: Canary | None = None
    previous: tuple[Past, ...] = ()  # newest first
    revision: int = Field(default=1, ge=1)
    reason: str = ""
    since: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def pin(self) -> Pin:
        """The serving version."""
        return Pin(version=self.version, digest=self.digest)

    @property
    def served(self) -> tuple[Pin, ...]:
        """Every version that gets requests."""
        return (self.pin, *([self.canary] if self.canary else ()))

    def fits(self, replica: Drawing) -> bool:
        """Return whether a replica has the base and the VAE of the version's evaluation."""
        return (replica.base, replica.vae) == (self.base, self.vae)

    def with_version(
        self, pin: Pin, reason: str, *, base: str | None = None, vae: str | None = None
    ) -> Self:
        """Return a release that serves `pin`; the serving version becomes the newest past one.

        The canary is removed. Without `base`, base and VAE stay the same.
        """
        base, vae = (base, vae) if base else (self.base, self.vae)
        return self._next(pin, reason, base=base, vae=vae)

    def with_canary(self, canary: Canary | None, reason: str) -> Self:
        """Return a release with another canary or, with None, without one."""
        fields = {"canary": canary, "reason": reason, "revision": self.revision + 1}
        return self.model_copy(update=fields)

    def rolled_back(self, revision: int | None = None, reason: str = "rolled back") -> Self:
        """Return a release that serves a past revision, by default the newest one not withdrawn.

        Without a revision, a canary is the change that is undone: it ends, and the serving version
        stays. Otherwise, the release gets base and VAE of that revision, too. The serving version
        is marked as withdrawn, so a second rollback goes back further. Raises ReleaseError if there
        is no such revision.
        """
        if revision is None and self.canary is not None:
            return self.with_canary(None, reason)
        past = self._target(revision)
        pin = Pin(version=past.version, digest=past.digest)
        return self._next(pin, reason, base=past.base, vae=past.vae, withdrawn=True)

    def kept(self, count: int) -> tuple[Pin, ...]:
        """Return up to `count` distinct pins: serving, canary, then past ones, newest first.

        Past pins of another base are omitted, because they do not fit the replicas.
        """
        canary = [self.canary] if self.canary else []
        past = [entry for entry in self.previous if entry.base == self.base]
        distinct = {self.digest: self.pin}
        for pin in (*canary, *past):
            distinct.setdefault(pin.digest, Pin(version=pin.version, digest=pin.digest))
        return tuple(distinct.values())[:count]

    def _target(self, revision: int | None) -> Past:
        if revision is None:
            newest: dict[str, Past] = {}
            for past in self.previous:
                newest.setdefault(past.digest, past)
            newest.pop(self.digest, None)
            target = next((past for past in newest.values() if not past.withdrawn), None)
            missing = "has no earlier version to roll back to; `atelier retire` stops serving it"
        else:
            target = next((past for past in self.previous if past.revision == revision), None)
            known = ", ".join(str(past.revision) for past in self.previous) or "none"
            missing = f"has no revision {revision}; known are: {known}"
        if target is None:
            raise ReleaseError(f"release {self.adapter}: {missing}")
        return target

    def _next(
        self, pin: Pin, reason: str, *, base: str, vae: str | None, withdrawn: bool = False
    ) -> Self:
        past = Past(
            base=self.base,
            vae=self.vae,
            version=self.version,
            digest=self.digest,
            revision=self.revision,
            reason=self.reason,
            since=self.since,
            withdrawn=withdrawn,
        )
        return type(self)(
            adapter=self.adapter,
            base=base,
            vae=vae,
            version=pin.version,
            digest=pin.digest,
            previous=(past, *self.previous)[:HISTORY],
            revision=self.revision + 1,
            reason=reason,
        )


class ReleaseFolder:
    """The releases on one machine: one file per adapter, as on a cluster one ConfigMap."""

    def __init__(self, path: Path):
        self.path = path

    def list(self) -> dict[str, Release]:
        """Return every release by adapter. Raises ReleaseError if one is unreadable."""
        names = sorted(self.names())
        return {name: release for name in names if (release := self.get(name)) is not None}

    def names(self) -> set[str]:
        """Return the released adapters, including those with unreadable releases."""
        return {file.stem for file in self.path.glob("[!.]*.json")}

    def get(self, name: str) -> Release | None:
        """Return an adapter's release, or None. Raises ReleaseError if it is unreadable."""
        file = self._file(name)
        try:
            release = Release.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise ReleaseError(
                f"{file}: not a release ({_short(error)}); promote or retire the adapter again"
            ) from error
        if release.adapter != name:
            raise ReleaseError(
                f"{file}: contains the release of {release.adapter}; rename the file"
            )
        return release

    def put(self, release: Release) -> None:
        """Write a release atomically."""
        write_atomic(self._file(release.adapter), release.model_dump_json(indent=2) + "\n")

    def remove(self, name: str) -> None:
        """Delete an adapter's release. Raises ReleaseError if there is none."""
        try:
            self._file(name).unlink()
        except FileNotFoundError:
            raise ReleaseError(f"release {name}: does not exist{_known(self.list())}") from None

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.json"


def _short(error: OSError | ValidationError) -> str:
    return summary(error) if isinstance(error, ValidationError) else str(error.strerror)


def _known(names: Iterable[str]) -> str:
    listed = ", ".join(builtins.list(names))
    return f"; served are {listed}" if listed else "; no adapter is served"
