"""What was measured and what follows from it: `evaluation.json`, the document a promotion reads.

It names the digest of the package it speaks of and holds every single picture's numbers, so that
anybody can work the verdict out again (`gates.verdict`) instead of believing it.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atelier.data.names import AdapterName, Digest
from atelier.data.policy import Gates, Measure
from atelier.errors import BadInput
from atelier.files import write_atomic
from atelier.validation import summary

from .prompt_set import Role

Kind = Literal["min", "max", "min_delta", "max_delta"]

FILE = "evaluation.json"
SHEET = "sheet.png"


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measured(_Plain):
    """One picture's numbers. `base_values` are those of the base's picture of the same noise."""

    role: Role
    prompt: str
    seed: int
    picture: str  # beside evaluation.json
    base_picture: str
    values: dict[str, float]
    base_values: dict[str, float] = {}
    nearest: str | None = None  # the training picture it comes closest to


class References(_Plain):
    """The pictures that the subject was compared with."""

    digest: Digest  # of the training pictures, as the package's manifest names it
    files: tuple[str, ...]
    held_back: bool  # whether `files` were kept from training
    likeness: dict[str, float] = {}  # of those pictures among themselves: what a perfect copy gets


class Measures(_Plain):
    """Everything measured; the gates are worked out from this and a policy, and nothing else."""

    pictures: tuple[Measured, ...]
    references: References


class SamplingSettings(_Plain):
    """How the pictures were made."""

    scheduler: str
    steps: int
    guidance_scale: float


class GateResult(_Plain):
    """One measured condition: its number, the limit, and the pictures behind it, worst first."""

    name: Measure
    kind: Kind
    value: float | None  # None where nothing could be measured
    threshold: float
    ci: tuple[float, float] | None  # 95 %, bootstrap over the pictures
    passed: bool
    pictures: tuple[str, ...]


class Evaluation(_Plain):
    """A judged adapter."""

    schema_version: Literal[1] = 1
    adapter: AdapterName
    digest: Digest
    base: Digest
    vae: Digest | None = None  # that drew the pictures in place of the base's own
    policy: Digest  # under which the gates below were worked out
    backend: str
    engine_digest: str
    scorers: dict[str, str]  # by role: the name in the policy
    scorer_digests: dict[str, str]
    trigger: str
    noun: str = Field(description="the class: what the trigger is a particular one of")
    sampling: SamplingSettings
    recipe_gates: Gates = {}  # by which the author asked for more than the policy
    measures: Measures
    gates: tuple[GateResult, ...] = ()
    accepted: bool = False
    reasons: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: bytes | str, source: str = FILE) -> "Evaluation":
        """Read the document; `source` names it in the error."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise BadInput(f"{source}: {summary(error)}; evaluate the package again") from error

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """Read an evaluation.json, or the one in the folder `path`."""
        file = path / FILE if path.is_dir() else path
        try:
            return cls.parse(file.read_bytes(), str(file))
        except OSError as error:
            raise BadInput(f"{file}: cannot be read ({error.strerror})") from error

    def to_json(self) -> str:
        """The document as it is written."""
        return self.model_dump_json(indent=1) + "\n"

    def write(self, folder: Path) -> Path:
        """Write evaluation.json into `folder`."""
        write_atomic(folder / FILE, self.to_json())
        return folder / FILE
