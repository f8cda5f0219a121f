"""The request and response models of the gateway. `tables.py` defines the database models."""

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
        description="Pixels; by default the base's own size.",
    ),
]


class Accepted(BaseModel):
    """A strictly validated body: unknown fields and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AdapterChoice(Accepted):
    """One adapter of a combination, with its weight."""

    name: AdapterName
    version: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="By default the serving version."
    )
    weight: Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False)] = 1.0


class GenerateImage(Accepted):
    """A prompt and its generation parameters.

    Image `i` of a request is equal to the image of a single-image request with the seed `seed + i`.
    """

    prompt: str = Field(
        min_length=1,
        examples=["a cat on the beach"],
        description="`{trigger}` is replaced by the adapter's trigger words. A prompt without them "
        "gets them in place of the class word (cat → sks cat), or else in front.",
    )
    negative_prompt: str | None = Field(default=None, examples=["blurry"])
    adapter: str | None = Field(
        default=None,
        max_length=80,
        examples=["thor-cat", "thor-cat@2"],
        description="`name` or `name@version`; by default the base without an adapter.",
    )
    adapters: list[AdapterChoice] | None = Field(
        default=None,
        max_length=MAX_ADAPTERS,
        description="Several adapters with weights, in place of `adapter`.",
    )
    style: str | None = Field(
        default=None,
        max_length=100,
        examples=["portrait"],
        description="Name of a prompt template of the adapters.",
    )
    fill_trigger: bool = Field(
        default=True, description="If false, trigger words are inserted only for `{trigger}`."
    )
    seed: Annotated[int, Field(ge=0, lt=SEEDS)] | None = Field(
        default=None, description="By default random; the response contains the seed."
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
            raise ValueError("contains a zero character; remove it")
        return text

    @model_validator(mode="after")
    def _one_way_to_name_adapters(self) -> GenerateImage:
        if self.adapter is not None and self.adapters is not None:
            raise ValueError("give either adapter or adapters, not both")
        names = [choice.name for choice in self.adapters or ()]
        if len(set(names)) < len(names):
            raise ValueError("adapters: an adapter occurs twice; name each once")
        return self

    def choices(self) -> list[AdapterChoice]:
        """Return the requested adapters, from either `adapter` or `adapters`."""
        if self.adapter is None:
            return list(self.adapters or ())
        name, version = parse_reference(self.adapter)
        return [AdapterChoice.model_construct(name=name, version=version, weight=1.0)]


class GeneratedImage(BaseModel):
    """One image and its seed."""

    png: str = Field(
        description="PNG, base64; its iTXt chunk `atelier` contains the generation parameters."
    )
    seed: int


class AdapterUsedDocument(BaseModel):
    """An adapter that was used, identified by its digest."""

    name: str
    version: int
    digest: str
    weight: float


class GeneratedImages(BaseModel):
    """The images of a request, and the values that reproduce them."""

    images: list[GeneratedImage]
    adapters: list[AdapterUsedDocument]
    prompt: str = Field(description="The prompt as sent to the model.")
    warnings: list[str] = Field(
        description="For example the dropped words of a prompt that exceeds 77 tokens."
    )
    timings: dict[str, float] = Field(description="Seconds by stage; `gateway` is the total.")


class ApiKeyUsage(BaseModel):
    """The usage of an API key."""

    key: str = Field(description="The public beginning of the key.", examples=["atl_k3v9m2xq"])
    name: str
    images: int = Field(description="Images delivered.")
    in_progress: int = Field(description="Images in progress, charged when delivered.")
    quota: int | None = Field(description="Images allowed in total; null means no limit.")
    remaining: int | None = Field(description="Images left of the quota; null means no limit.")
    created_at: datetime
    expires_at: datetime | None


class ModelCard(BaseModel):
    """An entry of OpenAI's model list, with additional fields for adapters."""

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
    trouble: str | None = Field(
        default=None, description="The reason why the released version does not serve."
    )


class ModelList(BaseModel):
    """The base and every released adapter."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """The result of a health check, with the state of each checked part."""

    status: Literal["ok", "unready"]
    checks: dict[str, bool] = {}


class FieldError(BaseModel):
    """An invalid field."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """An RFC 9457 problem document. `type` is stable, so clients may branch on it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:atelier:problem:unknown-adapter"])
    title: str
    status: int
    detail: str
    instance: str = Field(description="The id of the request, as in the gateway's log.")
    errors: list[FieldError] | None = None


def example_body() -> dict[str, Any]:
    """Return the example body for the API documentation."""
    return {
        "prompt": "a cat on the beach",
        "adapter": "thor-cat",
        "style": "portrait",
        "seed": 7,
        "steps": 30,
    }
