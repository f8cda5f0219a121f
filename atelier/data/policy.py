"""The evaluation policy of an environment, set by its operator.

The gates of a recipe may tighten the policy for its adapter, but not loosen it.
"""

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from atelier.data import yaml_model
from atelier.errors import PolicyError
from atelier.files import digest_json

DEFAULT = Path(__file__).with_name("policy.yaml")

# subject    similarity to the training subject (DINO features); image: the same with CLIP-I
# text       similarity of picture and prompt (CLIP-T)
# drift      distance of pictures of unrelated prompts to those of the base
# diversity  differences between pictures of one prompt
# copying    similarity to the nearest training picture
# effect     difference between pictures with and without the adapter
Measure = Literal["subject", "image", "text", "drift", "diversity", "copying", "effect"]

Limit = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Gate(_Plain):
    """Limits of one measure; the deltas limit its difference from the base's value."""

    min: Limit | None = None
    max: Limit | None = None
    min_delta: Limit | None = None
    max_delta: Limit | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.limits:
            raise ValueError("a gate needs at least one of min, max, min_delta and max_delta")
        _refuse_contradiction(self.limits)
        return self

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {name: value for name, value in self if value is not None}

    def tightened(self, other: "Gate") -> "Gate":
        """Return a gate with the limits of both. Raises ValueError if `other` loosens one."""
        for name, value in other.limits.items():
            own = getattr(self, name)
            if own is None:
                continue
            looser = value < own if name.startswith("min") else value > own
            if looser:
                raise ValueError(f"{name} {value:g} is looser than the policy's {own:g}")
        limits = {**self.limits, **other.limits}
        _refuse_contradiction(limits)
        return Gate.model_validate(limits)


def _refuse_contradiction(limits: Mapping[str, float]) -> None:
    for low, high in (("min", "max"), ("min_delta", "max_delta")):
        if low in limits and high in limits and limits[low] > limits[high]:
            raise ValueError(
                f"no value is both at least {limits[low]:g} and at most {limits[high]:g}"
            )


Gates = dict[Measure, Gate]


class Prompts(_Plain):
    """The prompts of an evaluation."""

    subject: Annotated[tuple[Text, ...], Field(min_length=1)]  # {trigger}, {class}
    unrelated: Annotated[tuple[Text, ...], Field(min_length=1)]

    @field_validator("subject", "unrelated")
    @classmethod
    def _known_fields(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        for prompt in prompts:
            fields = {field for _, field, _, _ in string.Formatter().parse(prompt)} - {None}
            if fields - {"trigger", "class"}:
                raise ValueError(f"{prompt!r}: only {{trigger}} and {{class}} can be filled in")
        return prompts


class ScorerNames(_Plain):
    """The scorers: a folder (relative to the working directory), a hub ID, or the address
    `mlflow://scorers/<hex>` that `atelier scorer import` prints."""

    clip: Text
    dino: Text


class Policy(_Plain):
    """The evaluation of adapters in one environment."""

    scorers: ScorerNames
    seeds: Annotated[tuple[Annotated[int, Field(strict=True, ge=0)], ...], Field(min_length=1)]
    prompts: Prompts
    steps: Annotated[int, Field(strict=True, ge=1, le=150)] = 30
    guidance_scale: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 5.0
    scheduler: Text = "euler"
    gates: Annotated[Gates, Field(min_length=1)]
    against_serving: Gates = {}  # limits of a candidate's difference to the serving version

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is given twice, so its pictures would count twice; remove one")
        return seeds

    @field_validator("against_serving")
    @classmethod
    def _only_deltas(cls, gates: Gates) -> Gates:
        for name, gate in gates.items():
            if wrong := [limit for limit in gate.limits if not limit.endswith("delta")]:
                raise ValueError(
                    f"{name}.{wrong[0]}: a comparison limits differences, so use "
                    f"{wrong[0]}_delta; absolute limits belong in gates"
                )
        return gates

    @classmethod
    def load(cls, path: Path | None = None) -> "Policy":
        """Read a policy, by default the policy of the miniature.

        Raises PolicyError if it is invalid.
        """
        return yaml_model.load(Path(path) if path else DEFAULT, cls, PolicyError)

    @classmethod
    def parse(cls, text: str, source: str) -> "Policy":
        """Parse a policy; `source` names it in errors. Raises PolicyError if it is invalid."""
        return yaml_model.parse(text, Path(source), cls, PolicyError)

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the content."""
        return digest_json(self.model_dump(mode="json"))

    def tightened(self, gates: Mapping[Measure, Gate]) -> "Policy":
        """Return this policy with a recipe's gates. Raises PolicyError if one loosens it."""
        merged = dict(self.gates)
        for name, gate in gates.items():
            try:
                merged[name] = merged[name].tightened(gate) if name in merged else gate
            except ValueError as error:
                raise PolicyError(
                    f"gates.{name}: {error}; a recipe may only tighten the policy"
                ) from error
        return self.model_copy(update={"gates": merged})
