"""What a Job is made from, all by digest: equal specs are one Job and one result."""

from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from atelier.errors import BadInput
from atelier.files import digest_json
from atelier.validation import summary

SPEC_TAG = "atelier.spec"  # of a version or an engine in MLflow: the spec that it was made from


class Spec(BaseModel):
    """Everything that decides about what comes of a Job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what a Job was given."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise BadInput(f"--spec: {summary(error)}") from error

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of all of it."""
        return digest_json(self.model_dump(mode="json"))
