"""The spellings that every room must agree on: adapter names and digests."""

import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints


def _adapter_name(name: str) -> str:
    # It becomes a Helm release (at most 53 characters), a ConfigMap and a folder.
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?", name):
        raise ValueError(
            f"{name!r} is no adapter name: at most 53 of a-z, 0-9 and -, not - at either end"
        )
    return name


AdapterName = Annotated[str, AfterValidator(_adapter_name)]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


def hex_of(digest: str) -> str:
    """The digest without its algorithm, as folders are named."""
    return digest.removeprefix("sha256:")
