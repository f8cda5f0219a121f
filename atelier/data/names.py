"""Adapter names, digests and artifact addresses, as used throughout the project."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, StringConstraints

from atelier.errors import BadInput

ArtifactKind = Literal["bases", "vaes", "scorers", "datasets", "recipes", "engines"]
SCHEME = "mlflow://"
COMPARED = 1000  # the most names that `nearest` compares
_KEY = re.compile(r"[0-9a-z][0-9a-z._-]{0,127}")


def _adapter_name(name: str) -> str:
    # The name is also used for a Helm release (at most 53 characters), a ConfigMap and a folder.
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?", name):
        raise ValueError(
            f"{name!r} is not an adapter name; use at most 53 of a-z, 0-9 and -, without - at "
            "either end"
        )
    return name


def _version_label(label: str) -> str:
    name, at, version = label.partition("@")
    if not at or not re.fullmatch(r"[1-9][0-9]*", version):
        raise ValueError(f"{label!r} is not a version of an adapter; write NAME@VERSION")
    return f"{_adapter_name(name)}@{version}"


AdapterName = Annotated[str, AfterValidator(_adapter_name)]
VersionLabel = Annotated[str, AfterValidator(_version_label)]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to `name`, for a hint in an error.

    Compares names with the same first letter. Returns None if there are more than `COMPARED`,
    because a comparison takes tens of microseconds.
    """
    alike = [other for other in known if other[:1] == name[:1]]
    return next(iter(get_close_matches(name, alike, n=1)), None) if len(alike) <= COMPARED else None


def hex_of(digest: str) -> str:
    """Return the hexadecimal part of a digest, which names folders."""
    return digest.removeprefix("sha256:")


@dataclass(frozen=True)
class ArtifactRef:
    """The address of an artifact: `mlflow://bases/<hex>` in a storageUri, a policy or a command."""

    kind: ArtifactKind
    key: str

    @classmethod
    def of(cls, kind: ArtifactKind, digest: str) -> Self:
        """Return the address of the artifact with a digest."""
        return cls(kind, hex_of(digest))

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Parse an address. Raises BadInput, with the format, if it is invalid."""
        kind, _, key = uri.removeprefix(SCHEME).partition("/")
        known = get_args(ArtifactKind)
        if not uri.startswith(SCHEME) or kind not in known or not _KEY.fullmatch(key):
            raise BadInput(
                f"{uri}: is not the address of an artifact; the form is {SCHEME}bases/<hex>, the "
                f"kinds are {', '.join(known)}"
            )
        return cls(kind, key)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{SCHEME}{self.kind}/{self.key}"
