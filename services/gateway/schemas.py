"""What the gateway accepts and returns; what it stores is in `tables.py`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from atelier.contract.limits import (
    MAX_ADAPTERS,
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_SIDE,
    MAX_STEPS,
    MAX_WEIGHT,
    MIN_SIDE,
    SEEDS,
    SIDE_MULTIPLE,
)
from atelier.data.names import AdapterName
from services.gateway.releases import parse_reference

Side = Annotated[
    int,
    Field(
        ge=MIN_SIDE,
        le=MAX_SIDE,
        multiple_of=SIDE_MULTIPLE,
        description="Pixels; the base's own if left out.",
    ),
]


class Accepted(BaseModel):
    """A body that is read strictly: unknown fields and wrong types are errors, not guesses."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AdapterChoice(Accepted):
    """One of several adapters to combine."""

    name: AdapterName
    version: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="The version that serves, if left out."
    )
    weight: Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)] = 1.0


class GenerateImage(Accepted):
    """A prompt and how to draw it. Image `i` of a call is what `seed + i` alone gives."""

    prompt: str = Field(
        min_length=1,
        examples=["a cat on the beach"],
        description="`{trigger}` stands for the adapter's trigger words; without it they are "
        "filled in: in place of the class word (cat → sks cat), else in front.",
    )
    negative_prompt: str | None = Field(default=None, examples=["blurry"])
    adapter: str | None = Field(
        default=None,
        max_length=80,
        examples=["thor-cat", "thor-cat@2"],
        description="`name` or `name@version`; the bare base model if left out.",
    )
    adapters: list[AdapterChoice] | None = Field(
        default=None, max_length=MAX_ADAPTERS, description="Several adapters with weights."
    )
    style: str | None = Field(
        default=None,
        max_length=100,
        examples=["portrait"],
        description="One of the adapter's prompt templates.",
    )
    fill_trigger: bool = Field(
        default=True, description="Off: the prompt is sent without trigger words filled in."
    )
    seed: Annotated[int, Field(ge=0, lt=SEEDS)] | None = Field(
        default=None, description="Drawn at random and returned, if left out."
    )
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 30
    width: Side | None = None
    height: Side | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=MAX_GUIDANCE, allow_inf_nan=False)] = 5.0
    scheduler: Annotated[str, Field(min_length=1, max_length=32)] = Field(
        default="euler", examples=["euler", "ddim", "pndm", "lms", "dpm++"]
    )
    images: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 1

    @field_validator("adapter")
    @classmethod
    def _reference(cls, adapter: str | None) -> str | None:
        if adapter is not None:
            parse_reference(adapter)
        return adapter

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _unicode(cls, text: str | None) -> str | None:
        if text is not None and "\0" in text:
            raise ValueError("holds a zero character")
        return text

    @model_validator(mode="after")
    def _one_way_to_name_adapters(self) -> GenerateImage:
        if self.adapter is not None and self.adapters is not None:
            raise ValueError("give either adapter or adapters, not both")
        names = [choice.name for choice in self.adapters or ()]
        if len(set(names)) < len(names):
            raise ValueError("adapters: the same adapter is named twice")
        return self

    def choices(self) -> list[AdapterChoice]:
        """The adapters asked for, however they were named."""
        if self.adapter is None:
            return list(self.adapters or ())
        name, version = parse_reference(self.adapter)
        return [AdapterChoice.model_construct(name=name, version=version, weight=1.0)]


class GeneratedImage(BaseModel):
    """One picture."""

    png: str = Field(description="PNG, base64; its iTXt chunk `atelier` tells how it was made.")
    seed: int


class AdapterUsedDocument(BaseModel):
    """Exactly which weights made the pictures."""

    name: str
    version: int
    digest: str
    weight: float


class GeneratedImages(BaseModel):
    """The answer to a call."""

    images: list[GeneratedImage]
    adapters: list[AdapterUsedDocument]
    prompt: str = Field(description="The prompt as it was sent to the model.")
    warnings: list[str] = Field(description="For example the words beyond the model's 77 tokens.")
    timings: dict[str, float] = Field(description="Seconds.")


class ApiKeyUsage(BaseModel):
    """What a key has used."""

    key: str = Field(description="The key's visible beginning.", examples=["atl_k3v9m2xq"])
    name: str
    images: int = Field(description="Pictures delivered.")
    in_progress: int = Field(description="Pictures being made now; charged when delivered.")
    quota: int | None = Field(description="Pictures allowed in all; null is without end.")
    remaining: int | None
    created_at: datetime
    expires_at: datetime | None


class ModelCard(BaseModel):
    """One entry of OpenAI's model list, with what we know beyond it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["atelier"] = "atelier"
    version: int | None = None
    versions: list[int] = []
    digest: str | None = None
    trigger: str | None = None
    styles: dict[str, str] = {}
    ready: bool = True
    trouble: str | None = Field(default=None, description="Why the released version waits.")


class ModelList(BaseModel):
    """Every adapter that is released here, and the base."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """Whether the process, or all that it needs, is there."""

    status: Literal["ok", "unready"]
    checks: dict[str, bool] = {}


class FieldError(BaseModel):
    """One field that cannot be used."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """An error as RFC 9457 has it; `type` is stable and safe to switch on."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:atelier:problem:unknown-adapter"])
    title: str
    status: int
    detail: str
    instance: str = Field(description="The request's id, as in the gateway's log.")
    errors: list[FieldError] | None = None


def example_body() -> dict[str, Any]:
    """A body that the documentation shows."""
    return {
        "prompt": "a cat on the beach",
        "adapter": "thor-cat",
        "style": "portrait",
        "seed": 7,
        "steps": 30,
    }
