"""The spellings that every room must agree on: adapter names and digests."""

from typing import Annotated

from pydantic import StringConstraints

# An adapter's name becomes a Helm release (at most 53 characters), a ConfigMap and a folder.
AdapterName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=53)
]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


def hex_of(digest: str) -> str:
    """The digest without its algorithm, as folders are named."""
    return digest.removeprefix("sha256:")
