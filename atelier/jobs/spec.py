"""What a training Job is made from, all by digest: equal specs are one Job and one version."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atelier.errors import BadInput
from atelier.files import digest_json
from atelier.names import AdapterName, Digest, hex_of

SPEC_TAG = "atelier.spec"  # of a version in the registry: the spec that it was made from


class TrainingSpec(BaseModel):
    """A recipe, and what it names: everything that decides about the adapter's weights.

    The datasets are digests of folders (names of files decide about their order), not those of a
    package's manifest, which are of the pictures alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: AdapterName
    recipe: Digest
    base: Digest
    vae: Digest | None = None
    datasets: Annotated[tuple[Digest, ...], Field(min_length=1)]  # by stage
    held_back: Digest | None = None  # pictures to judge by
    processes: Annotated[int, Field(ge=1)] = 1  # that share a step, one a GPU

    @classmethod
    def parse(cls, text: str) -> "TrainingSpec":
        """Read what a Job was given."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "it"
            raise BadInput(f"--spec: {key}: {first['msg']}") from error

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of all of it."""
        return digest_json(self.model_dump(mode="json"))

    def job_name(self, environment: str) -> str:
        """The one Job that makes this under an environment's policy; at most 63 characters."""
        which = hex_of(digest_json([self.digest, environment]))[:10]
        return f"train-{self.adapter[:46].rstrip('-')}-{which}"
