"""The evaluation policy of an environment, set by its operator.

The gates of a recipe may tighten the policy for its adapter, but not loosen it.
"""

import string
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from atelier.data import yaml_model
from atelier.data.live_policy import LivePolicy
from atelier.data.names import VersionLabel
from atelier.errors import PolicyError
from atelier.files import digest_json

DEFAULT = Path(__file__).with_name("policy.yaml")

# consistency  similarity of each reference picture to the others
# subject      similarity to the references (DINO features); image: the same with CLIP-I
# retrieval    whether a picture is more similar to a reference than to every look-alike
# text         similarity of picture and prompt (CLIP-T)
# class_drift  distance of pictures of the class to those of the base
# leak         whether a picture of the class is more similar to a reference than to the class
# drift        distance of pictures of unrelated prompts to those of the base
# diversity    differences between pictures of one prompt
# sharpness    fine detail of a picture, divided by that of the base's pictures
# copying      similarity to the nearest training picture
# stamp        how much of a mark, which all training pictures share, is in a picture
# effect       difference between pictures with and without the adapter
# together     similarity to the references (DINO features) with the policy's companions
# The following exist if the policy names the scorer in NEEDED_SCORER:
# subject_crop similarity to the references (DINO features) of the subject without its background
# background   similarity to the training pictures of the background without the subject
# replica      similarity to the nearest training picture (copy detector)
# face         similarity of the largest face to those of the references
# faces        whether the picture shows a face
Measure = Literal[
    "consistency",
    "subject",
    "image",
    "retrieval",
    "text",
    "class_drift",
    "leak",
    "drift",
    "diversity",
    "sharpness",
    "copying",
    "stamp",
    "effect",
    "together",
    "subject_crop",
    "background",
    "replica",
    "face",
    "faces",
]
OptionalRole = Literal["copy", "face", "saliency"]
NEEDED_SCORER: Final[Mapping[Measure, OptionalRole]] = {
    "subject_crop": "saliency",
    "background": "saliency",
    "replica": "copy",
    "face": "face",
    "faces": "face",
}
OF_DINO: Final = "dino"  # a saliency scorer: the patches of the network of `dino`

Limit = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Gate(_Plain):
    """Limits of one measure.

    `min` and `max` limit its mean over all pictures, the deltas the mean difference from the base's
    value, and `min_worst` and `max_worst` the mean over the pictures of the worst prompt.
    """

    min: Limit | None = None
    max: Limit | None = None
    min_delta: Limit | None = None
    max_delta: Limit | None = None
    min_worst: Limit | None = None
    max_worst: Limit | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.limits:
            raise ValueError(f"a gate needs at least one of {', '.join(type(self).model_fields)}")
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
    for low, high in (("min", "max"), ("min_delta", "max_delta"), ("min_worst", "max_worst")):
        if low in limits and high in limits and limits[low] > limits[high]:
            raise ValueError(
                f"no value is both at least {limits[low]:g} and at most {limits[high]:g}"
            )


Gates = dict[Measure, Gate]


class Prompts(_Plain):
    """The prompts of an evaluation, by role.

    `subject` shows the subject, `class` other members of its class, and `unrelated` neither. Each
    role has a measure of its own, because the mean over several roles would hide the loss of one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    subject: Annotated[tuple[Text, ...], Field(min_length=1)]
    class_: Annotated[tuple[Text, ...], Field(alias="class")] = ()
    unrelated: Annotated[tuple[Text, ...], Field(min_length=1)]

    @field_validator("subject", "class_", "unrelated")
    @classmethod
    def _known_fields(cls, prompts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for prompt in prompts:
            fields = {field for _, field, _, _ in string.Formatter().parse(prompt)} - {None}
            if fields - {"trigger", "class"}:
                raise ValueError(f"{prompt!r}: only {{trigger}} and {{class}} can be filled in")
            _check_role(info.field_name, prompt, fields)
        return prompts


def _check_role(role: str | None, prompt: str, fields: set[str | None]) -> None:
    if role == "subject" and "trigger" not in fields:
        raise ValueError(f"{prompt!r} needs {{trigger}}, because it must show the subject")
    if role == "class_" and fields != {"class"}:
        raise ValueError(f"{prompt!r} needs {{class}} and no {{trigger}}: it shows the plain class")
    if role == "unrelated" and fields:
        raise ValueError(f"{prompt!r} must have no placeholder; a class belongs in prompts.class")


class Seeds(_Plain):
    """The number of seeds per prompt: `first` pictures, and up to `most` if they do not decide.

    The seeds are 0, 1, 2 and so on. The number doubles until every gate is decided.
    """

    first: Annotated[int, Field(strict=True, ge=2)]
    most: Annotated[int, Field(strict=True, ge=2, le=256)]

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.most < self.first:
            raise ValueError(f"most {self.most} must be at least first {self.first}")
        return self

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds after which the gates are computed."""
        counts = [self.first]
        while counts[-1] < self.most:
            counts.append(min(2 * counts[-1], self.most))
        return tuple(counts)


class ScorerNames(_Plain):
    """The scorers: a folder (relative to the working directory), a hub ID, or the address
    `mlflow://scorers/<hex>` that `atelier scorer import` prints.

    The optional scorers add measures (NEEDED_SCORER). `saliency` can also be OF_DINO.
    """

    clip: Text
    dino: Text
    copy_: Annotated[Text | None, Field(alias="copy")] = None
    face: Text | None = None
    saliency: Text | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    @model_serializer(mode="wrap")
    def _only_named(self, serialize: SerializerFunctionWrapHandler) -> dict[str, str]:
        """Leave out absent scorers, so that the digest of a policy without them is unchanged."""
        return {role: name for role, name in serialize(self).items() if name is not None}


class Policy(_Plain):
    """The evaluation of adapters in one environment."""

    scorers: ScorerNames
    seeds: Seeds
    # The probability that a gate is decided wrongly if the true value is exactly at its limit.
    error: Annotated[float, Field(strict=True, gt=0, lt=0.5)] = 0.05
    prompts: Prompts
    steps: Annotated[int, Field(strict=True, ge=1, le=150)] = 30
    guidance_scale: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 5.0
    scheduler: Text = "euler"
    # Other adapters, such as those that serve most: the gate `together` is about pictures that are
    # generated with all of them.
    companions: Annotated[tuple[VersionLabel, ...], Field(max_length=4)] = ()
    gates: Annotated[Gates, Field(min_length=1)]
    against_serving: Gates = {}  # limits of a candidate's difference to the serving version
    live: LivePolicy | None = None  # limits of a canary's pictures made for users

    @model_validator(mode="after")
    def _asks_what_it_limits(self) -> Self:
        needy = {"class_drift", "leak"} & {*self.gates, *self.against_serving}
        if needy and not self.prompts.class_:
            raise ValueError(f"gate {min(needy)} needs at least one prompt in prompts.class")
        if missing := self._missing([*self.gates, *self.against_serving]):
            raise ValueError(missing)
        return self

    def _missing(self, gates: Collection[Measure]) -> str | None:
        """Return which gate needs something that the policy does not name, and the fix; or None."""
        named = self.scorers.model_dump()
        if "together" in gates and not self.companions:
            return "gate together needs companions; name some in the policy"
        for name in gates:
            role = NEEDED_SCORER.get(name)
            if role is not None and role not in named:
                return f"gate {name} needs scorers.{role}; name one in the policy"
        return None

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
        """`sha256:<hex>` of the content, without `live`, which does not affect an evaluation."""
        absent = {"live"} if self.companions else {"live", "companions"}
        return digest_json(self.model_dump(mode="json", exclude=absent))

    def companions_of(self, adapter: str) -> tuple[str, ...]:
        """Return the companions (NAME@VERSION) of an adapter, which is never its own companion."""
        return tuple(label for label in self.companions if label.partition("@")[0] != adapter)

    def tightened(self, gates: Mapping[Measure, Gate]) -> "Policy":
        """Return this policy with a recipe's gates.

        Raises PolicyError if one loosens the policy, or needs a scorer that it does not name.
        """
        if missing := self._missing(gates):
            raise PolicyError(f"gates: {missing}")
        merged = dict(self.gates)
        for name, gate in gates.items():
            try:
                merged[name] = merged[name].tightened(gate) if name in merged else gate
            except ValueError as error:
                raise PolicyError(
                    f"gates.{name}: {error}; a recipe may only tighten the policy"
                ) from error
        return self.model_copy(update={"gates": merged})
