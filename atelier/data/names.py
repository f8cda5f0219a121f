"""The spellings that every room must agree on: adapter names, digests, addresses of artifacts."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, StringConstraints

from atelier.errors import BadInput

ArtifactKind = Literal["bases", "vaes", "scorers", "datasets", "recipes", "engines"]
SCHEME = "mlflow://"
COMPARED = 1000  # names
_KEY = re.compile(r"[0-9a-z][0-9a-z._-]{0,127}")


def _adapter_name(name: str) -> str:
    # It becomes a Helm release (at most 53 characters), a ConfigMap and a folder.
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?", name):
        raise ValueError(
            f"{name!r} is no adapter name: at most 53 of a-z, 0-9 and -, not - at either end"
        )
    return name


AdapterName = Annotated[str, AfterValidator(_adapter_name)]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` may have been meant for, for an error's text.

    Looked for among those with the same first letter; where these are more than `COMPARED`, as
    comparing takes tens of microseconds each, there is none.
    """
    alike = [one for one in known if one[:1] == name[:1]]
    return next(iter(get_close_matches(name, alike, n=1)), None) if len(alike) <= COMPARED else None


def hex_of(digest: str) -> str:
    """The digest without its algorithm, as folders are named."""
    return digest.removeprefix("sha256:")


@dataclass(frozen=True)
class ArtifactRef:
    """Which artifact: `mlflow://bases/<hex>` in a storageUri, a policy or a command."""

    kind: ArtifactKind
    key: str

    @classmethod
    def of(cls, kind: ArtifactKind, digest: str) -> Self:
        """The artifact with a digest."""
        return cls(kind, hex_of(digest))

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Read an address; BadInput says how one is spelt."""
        kind, _, key = uri.removeprefix(SCHEME).partition("/")
        known = get_args(ArtifactKind)
        if not uri.startswith(SCHEME) or kind not in known or not _KEY.fullmatch(key):
            raise BadInput(
                f"{uri}: is no address of an artifact; one reads {SCHEME}bases/<hex>, the kinds "
                f"are {', '.join(known)}"
            )
        return cls(kind, key)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{SCHEME}{self.kind}/{self.key}"
