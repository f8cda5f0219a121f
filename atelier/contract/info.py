"""The record of a generation: the INFO output of V2, and the metadata of every PNG."""

from pydantic import BaseModel, ConfigDict


class UsedAdapter(BaseModel):
    """The adapter version that an image was generated with, and its weight."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int | None
    digest: str
    weight: float


class Info(BaseModel):
    """All data needed to generate the images again. `timings` are in seconds."""

    model_config = ConfigDict(frozen=True)

    seeds: tuple[int, ...]
    adapters: tuple[UsedAdapter, ...]
    base: str = ""
    backend: str
    engine_digest: str
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = {}
