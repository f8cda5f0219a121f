"""The manifest of an adapter package, fixed when the package is written.

The package's digest is the digest of the manifest, which names the digests of the other files.
Later facts (a version number, an evaluation, a signature) are therefore stored beside the package.
"""

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from atelier.data.names import AdapterName, Digest
from atelier.files import sha256_bytes

Kind = Literal["lora", "textual_inversion", "pivotal"]
FileName = Literal["adapter.safetensors", "embeddings.safetensors"]

FILES_OF_KIND: dict[str, frozenset[str]] = {
    "lora": frozenset({"adapter.safetensors"}),
    "textual_inversion": frozenset({"embeddings.safetensors"}),
    "pivotal": frozenset({"adapter.safetensors", "embeddings.safetensors"}),
}


class BaseRef(BaseModel):
    """The base that an adapter was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    digest: Digest


class Manifest(BaseModel):
    """The content of `manifest.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    name: AdapterName
    kind: Kind = "lora"
    base: BaseRef
    rank: int = Field(ge=0, description="the largest rank of the projections; 0 without any")
    alpha: float = Field(allow_inf_nan=False, description="of the projections of that rank")
    targets: tuple[str, ...] = ()
    trigger: str = ""
    class_prompt: str | None = None
    styles: dict[str, str] = {}
    dataset: Digest | None = None
    git_commit: str | None = None
    recipe: Digest | None = None
    files: dict[FileName, Digest]

    def canonical(self) -> bytes:
        """Return the bytes of `manifest.json` in canonical form, which defines the digest."""
        value = self.model_dump(mode="json")
        text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()

    @property
    def digest(self) -> str:
        """The package's digest: the SHA-256 of `manifest.json`."""
        return sha256_bytes(self.canonical())
