"""The manifest of an adapter package, fixed when the package is written.

The package's digest is the digest of the manifest, which names the digests of the other files.
Later facts (a version number, an evaluation, a signature) are therefore stored beside the package.
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atelier.data.names import AdapterName, Digest
from atelier.data.noun import Noun, check_trigger, phrase
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


# The fields that do not exist in a schema version.
_ABSENT: dict[int, set[str]] = {1: {"class_", "held_back"}, 2: {"class_prompt"}}


class Manifest(BaseModel):
    """The content of `manifest.json`.

    New packages have schema version 2. Packages of version 1 keep their digest, so they are read
    and written with the fields of version 1.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True
    )

    schema_version: Literal[1, 2] = 2
    name: AdapterName
    kind: Kind = "lora"
    base: BaseRef
    rank: int = Field(ge=0, description="the largest rank of the projections; 0 without any")
    alpha: float = Field(allow_inf_nan=False, description="of the projections of that rank")
    targets: tuple[str, ...] = ()
    trigger: str = ""
    class_: Annotated[Noun | None, Field(alias="class")] = None
    class_prompt: str | None = None  # of the prior; only in version 1
    styles: dict[str, str] = {}
    dataset: Digest | None = None  # of all pictures
    held_back: tuple[Digest, ...] = ()  # pictures of the dataset that training did not use
    git_commit: str | None = None
    recipe: Digest | None = None
    files: dict[FileName, Digest]

    @model_validator(mode="after")
    def _fits_its_version(self) -> Self:
        for name in sorted(_ABSENT[self.schema_version]):
            if getattr(self, name):
                raise ValueError(
                    f"{name.rstrip('_')} does not exist in schema version {self.schema_version}; "
                    "write the package again"
                )
        if self.class_ is not None:
            check_trigger(self.trigger, self.class_)
        return self

    @property
    def noun(self) -> str:
        """The class of the subject, such as `cat`; empty if it is unknown.

        In version 1, it is the longest ending of the trigger that the prior's prompt contains,
        because version 2 requires the same of trigger, class and prior.
        """
        if self.class_ is not None:
            return self.class_
        words = self.trigger.split()[1:]
        endings = (" ".join(words[start:]) for start in range(len(words)))
        prompt = self.class_prompt or ""
        return next((ending for ending in endings if phrase(ending).search(prompt)), "")

    def content(self) -> dict[str, Any]:
        """Return the fields of the manifest's schema version, as in `manifest.json`."""
        return self.model_dump(mode="json", exclude=_ABSENT[self.schema_version])

    def canonical(self) -> bytes:
        """Return the bytes of `manifest.json` in canonical form, which defines the digest."""
        value = self.content()
        text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()

    @property
    def digest(self) -> str:
        """The package's digest: the SHA-256 of `manifest.json`."""
        return sha256_bytes(self.canonical())
