"""The record of how images were made: V2's INFO output, and the metadata of every PNG."""

from pydantic import BaseModel, ConfigDict


class UsedAdapter(BaseModel):
    """The weights that an adapter of a request was drawn with."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int | None
    digest: str
    weight: float


class Info(BaseModel):
    """Everything that is needed to draw the images again. `timings` are in seconds."""

    model_config = ConfigDict(frozen=True)

    seeds: tuple[int, ...]
    adapters: tuple[UsedAdapter, ...]
    base: str = ""
    backend: str
    engine_digest: str
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = {}
