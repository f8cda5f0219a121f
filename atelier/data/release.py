"""Which version of an adapter serves in an environment, and what it can go back to.

A release pins version and digest, never an alias, so what serves can be read from it alone.
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

HISTORY = 10  # as many revisions as Helm keeps


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pin(_Plain):
    """Exactly one version of an adapter."""

    version: int = Field(ge=1)
    digest: Digest


class Canary(Pin):
    """A version that takes a share of the adapter's traffic, in percent."""

    percent: int = Field(ge=1, le=100)


class Past(Pin):
    """What served before; withdrawn if it was rolled back from, so not gone back to unasked."""

    base: Digest
    vae: Digest | None = None
    revision: int
    reason: str
    since: datetime
    withdrawn: bool = False


class Drawing(Protocol):
    """A replica, as far as a release needs it."""

    @property
    def base(self) -> str:
        """The digest of its base."""

    @property
    def vae(self) -> str | None:
        """The digest of its VAE; None: the base's own."""


class Release(_Plain):
    """One adapter's release in one environment; changes make a new one, `revision` counts them."""

    adapter: AdapterName
    base: Digest
    vae: Digest | None = None  # that its pictures were judged with; None: the base's own
    version: int = Field(ge=1)
    digest: Digest
    canary: Canary | None = None
    previous: tuple[Past, ...] = ()  # newest first
    revision: int = Field(default=1, ge=1)
    reason: str = ""
    since: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def pin(self) -> Pin:
        """What serves now."""
        return Pin(version=self.version, digest=self.digest)

    @property
    def served(self) -> tuple[Pin, ...]:
        """Every version that gets calls."""
        return (self.pin, *([self.canary] if self.canary else ()))

    def fits(self, replica: Drawing) -> bool:
        """Whether a replica draws with the base and the VAE that the version was judged with."""
        return (replica.base, replica.vae) == (self.base, self.vae)

    def with_version(
        self, pin: Pin, reason: str, *, base: str | None = None, vae: str | None = None
    ) -> Self:
        """Serve `pin`; what serves now becomes the newest of the past, and a canary ends.

        Without a `base` on the same one, and with the same VAE.
        """
        base, vae = (base, vae) if base else (self.base, self.vae)
        return self._next(pin, reason, base=base, vae=vae)

    def with_canary(self, canary: Canary | None, reason: str) -> Self:
        """Give a share of the traffic to another version, or end that; what serves stays."""
        fields = {"canary": canary, "reason": reason, "revision": self.revision + 1}
        return self.model_copy(update=fields)

    def rolled_back(self, revision: int | None = None, reason: str = "rolled back") -> Self:
        """Serve again what a past revision served; by default the newest that was not withdrawn.

        Base and VAE go back with it. What serves now is marked as withdrawn, so going back twice
        goes back further.
        """
        past = self._target(revision)
        pin = Pin(version=past.version, digest=past.digest)
        return self._next(pin, reason, base=past.base, vae=past.vae, withdrawn=True)

    def kept(self, count: int) -> tuple[Pin, ...]:
        """The present pin, the canary's, then the newest distinct past ones: `count` digests.

        All on this release's base: those of another would not fit where it serves.
        """
        beside = [self.canary] if self.canary else []
        past = [one for one in self.previous if one.base == self.base]
        distinct = {self.digest: self.pin}
        for one in (*beside, *past):
            distinct.setdefault(one.digest, Pin(version=one.version, digest=one.digest))
        return tuple(distinct.values())[:count]

    def _target(self, revision: int | None) -> Past:
        if revision is None:
            newest: dict[str, Past] = {}
            for past in self.previous:
                newest.setdefault(past.digest, past)
            newest.pop(self.digest, None)
            found = next((past for past in newest.values() if not past.withdrawn), None)
            missing = "has no earlier version to go back to; `atelier retire` stops serving it"
        else:
            found = next((past for past in self.previous if past.revision == revision), None)
            known = ", ".join(str(past.revision) for past in self.previous) or "none"
            missing = f"has no revision {revision}; known are: {known}"
        if found is None:
            raise ReleaseError(f"release {self.adapter}: {missing}")
        return found

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
    """The environment on one machine: a file for each adapter, as a cluster has a ConfigMap."""

    def __init__(self, path: Path):
        self.path = path

    def list(self) -> dict[str, Release]:
        """Every release by adapter."""
        names = sorted(self.names())
        return {name: one for name in names if (one := self.get(name)) is not None}

    def names(self) -> set[str]:
        """The adapters that are released, their releases readable or not."""
        return {file.stem for file in self.path.glob("[!.]*.json")}

    def get(self, name: str) -> Release | None:
        """The release of an adapter, or None where it is not served."""
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
            raise ReleaseError(f"{file}: is the release of {release.adapter}; rename the file")
        return release

    def put(self, release: Release) -> None:
        """Write a release in one step."""
        write_atomic(self._file(release.adapter), release.model_dump_json(indent=2) + "\n")

    def remove(self, name: str) -> None:
        """Stop serving an adapter; ReleaseError where it is not served."""
        try:
            self._file(name).unlink()
        except FileNotFoundError:
            raise ReleaseError(f"release {name}: there is none{_known(self.list())}") from None

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.json"


def _short(error: OSError | ValidationError) -> str:
    return summary(error) if isinstance(error, ValidationError) else str(error.strerror)


def _known(names: Iterable[str]) -> str:
    listed = ", ".join(builtins.list(names))
    return f"; served are {listed}" if listed else "; nothing is served"
