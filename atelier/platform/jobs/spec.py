"""The spec of a Job: the digests of all its inputs. Equal specs give one Job and one result."""

from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from atelier.errors import BadInput
from atelier.files import digest_json
from atelier.validation import summary

SPEC_TAG = "atelier.spec"  # tag of a version or an engine in MLflow: the digest of its spec


class Spec(BaseModel):
    """All inputs that affect the result of a Job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the argument of a Job. Raises BadInput if it is invalid."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise BadInput(f"--spec: {summary(error)}") from error

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the whole spec."""
        return digest_json(self.model_dump(mode="json"))
