"""The format of `evaluation.json`: the measurements of a package under a policy, and the verdict.

The document names the digest of the package and contains the measures of every picture. A promotion
recomputes the verdict from these measures with `gates.verdict` and does not trust the stored one.
"""

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atelier.data.names import AdapterName, Digest
from atelier.data.policy import Gates, Measure
from atelier.errors import BadInput
from atelier.files import write_atomic
from atelier.validation import summary

from .prompt_set import Role

Kind = Literal["min", "max", "min_delta", "max_delta", "min_worst", "max_worst"]
GateState = Literal["passed", "failed", "open"]  # open: the interval crosses the limit
Decision = Literal["accepted", "refused", "undecided"]

NEAR: Final = 0.25  # fraction of the width of an interval
NAMED: Final = 2  # pictures that the reason of one gate names

FILE = "evaluation.json"
SHEET = "sheet.png"
REPORT = "report.html"


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measured(_Plain):
    """The measures of one picture.

    `base_values` are the measures of the base's picture from the same noise.
    """

    role: Role
    prompt: str
    seed: int
    picture: str  # path relative to evaluation.json
    base_picture: str
    values: dict[str, float]
    base_values: dict[str, float] = {}
    nearest: str | None = None  # the most similar training picture
    look_alike: str | None = None  # the look-alikes that it shows instead of the subject


class Reference(_Plain):
    """A reference picture of the subject."""

    file: str  # path relative to the dataset
    digest: Digest | None = None
    values: dict[str, float] = {}  # consistency; none for a single reference


class References(_Plain):
    """The pictures with which the pictures of the subject were compared."""

    digest: Digest  # of the dataset, as in the package's manifest
    pictures: tuple[Reference, ...]
    held_back: bool  # whether training did not see `pictures`
    # Mean similarity of these pictures to each other, by measure: the ceiling of the measure,
    # because an adapter cannot be expected to score higher.
    likeness: dict[str, float] = {}
    look_alikes: tuple[str, ...] = ()  # names of the look-alikes, without those of the base

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of the pictures."""
        return tuple(picture.file for picture in self.pictures)


class Measures(_Plain):
    """All measurements. The gates depend only on these and on a policy."""

    pictures: tuple[Measured, ...]
    references: References


class SamplingSettings(_Plain):
    """The settings with which the pictures were generated."""

    scheduler: str
    steps: int
    guidance_scale: float


class GateResult(_Plain):
    """The result of one gate: value, limit and pictures, the worst picture first."""

    name: Measure
    kind: Kind
    value: float | None  # None if nothing could be measured
    threshold: float
    ci: tuple[float, float] | None  # of the value; None for a measure that is decided by its value
    state: GateState
    pictures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the gate is decided, and its value is on the good side of the limit."""
        return self.state == "passed"

    @property
    def limit(self) -> str:
        """The kind and the threshold, for tables: `min 0.5`."""
        return f"{self.kind.replace('_', ' ')} {self.threshold:g}"

    @property
    def measured(self) -> str:
        """The value, for tables."""
        return "not measured" if self.value is None else f"{self.value:.3f}"

    @property
    def interval(self) -> str:
        """The interval, for tables; empty if there is none."""
        return "" if self.ci is None else f"{self.ci[0]:.3f} to {self.ci[1]:.3f}"

    @property
    def mark(self) -> str:
        """The result, for tables: the failures stand out."""
        if self.near:
            return "passed narrowly"
        return {"passed": "passed", "failed": "FAILED", "open": "open"}[self.state]

    @property
    def notable(self) -> bool:
        """Whether the verdict has a reason for it: it failed, is open, or passed narrowly."""
        return not self.passed or self.near

    @property
    def named(self) -> tuple[str, ...]:
        """The worst pictures, which the reason of the gate names."""
        return self.pictures[:NAMED]

    @property
    def near(self) -> bool:
        """Whether a passed gate was nearly open: the interval ends just before the limit."""
        if self.state != "passed" or self.ci is None:
            return False
        low, high = self.ci
        distance = low - self.threshold if self.kind.startswith("min") else self.threshold - high
        return distance < NEAR * (high - low)


class Evaluation(_Plain):
    """The content of evaluation.json: measurements of one package, with the verdict."""

    schema_version: Literal[2] = 2
    adapter: AdapterName
    digest: Digest
    base: Digest
    vae: Digest | None = None  # the VAE that decoded the pictures; None: the VAE of the base
    policy: Digest  # the policy of `gates` and `decision`
    backend: str
    engine_digest: str
    scorers: dict[str, str]  # names from the policy, by role
    scorer_digests: dict[str, str]
    trigger: str
    noun: str = Field(description="the class of the subject, for example `cat`")
    companions: tuple[str, ...] = ()  # NAME@VERSION, applied together with the adapter
    sampling: SamplingSettings
    recipe_gates: Gates = {}  # stricter limits from the recipe
    measures: Measures
    gates: tuple[GateResult, ...] = ()
    decision: Decision = "undecided"
    reasons: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether every gate passed."""
        return self.decision == "accepted"

    @classmethod
    def parse(cls, data: bytes | str, source: str = FILE) -> "Evaluation":
        """Read a document. Raises BadInput, with `source` as the place, if it is not valid."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise BadInput(f"{source}: {summary(error)}; evaluate the package again") from error

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """Read the file `path`, or evaluation.json in the folder `path`.

        Raises BadInput if it cannot be read or is not valid.
        """
        file = path / FILE if path.is_dir() else path
        try:
            return cls.parse(file.read_bytes(), str(file))
        except OSError as error:
            raise BadInput(
                f"{file}: cannot be read ({error.strerror}); evaluate the package again"
            ) from error

    def to_json(self) -> str:
        """Return the text of evaluation.json."""
        return self.model_dump_json(indent=1) + "\n"

    def is_in(self, folder: Path) -> bool:
        """Return whether `folder` contains this evaluation."""
        file = folder / FILE
        return file.is_file() and file.read_text("utf-8") == self.to_json()

    def write(self, folder: Path) -> Path:
        """Write evaluation.json into `folder` and return its path."""
        write_atomic(folder / FILE, self.to_json())
        return folder / FILE
