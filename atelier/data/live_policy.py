"""The policy for live scores: what a canary must show in service before it may serve everybody."""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from atelier.files import digest_json

# The measures that need neither the base's picture nor several seeds of a prompt.
LiveMeasure = Literal["subject", "image", "text"]
MOST: Final = 96  # pictures that a policy can require; about 128 are kept of each version


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LiveLimit(_Plain):
    """How far the canary's mean may be below that of the serving version (`min_delta`)."""

    min_delta: Annotated[float, Field(strict=True, le=0, allow_inf_nan=False)]


class LivePolicy(_Plain):
    """The comparison of a canary with the serving version, from pictures made for users."""

    min_pictures: Annotated[int, Field(strict=True, ge=2, le=MOST)] = 32  # of each version
    limits: Annotated[dict[LiveMeasure, LiveLimit], Field(min_length=1)]
    # The probability that one run decides a limit wrongly if the true value is exactly at it.
    error: Annotated[float, Field(strict=True, gt=0, lt=0.5)] = 0.01
    take_back: Annotated[bool, Field(strict=True)] = False  # end a canary that falls behind

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the content."""
        return digest_json(self.model_dump(mode="json"))
