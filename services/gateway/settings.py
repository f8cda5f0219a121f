"""The settings of `python -m services.gateway`: `ATELIER_GATEWAY_*` and some shared variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from atelier.addresses import host_port, split_host_port
from atelier.contract.limits import MAX_IMAGES, MAX_PROMPT, MAX_SIDE, MAX_STEPS
from atelier.contract.tensors import MODEL
from atelier.errors import BadInput
from atelier.home import Home, HomeSettings
from services.gateway.budget import BYTES_PER_PIXEL, MIB, OWN_SIDE, PROCESS_BYTES
from services.gateway.database import parse_url

PREFIX = "ATELIER_GATEWAY_"
GIB = 2**30

_Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]


class GatewaySettings(HomeSettings):
    """The gateway's settings. Times are in seconds, sizes in bytes or pixels."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    # repr=False: an address may contain a password, and settings may appear in logs.
    database_url: str = Field(
        default="",
        repr=False,
        validation_alias="ATELIER_DATABASE_URL",
        description="Keys and usage: `sqlite:///…` or `postgresql://…`; by default in the home",
    )
    triton_url: str = Field(
        default="127.0.0.1:8001",
        validation_alias="ATELIER_TRITON_URL",
        description="Triton's gRPC address if replicas report none: `grpc://host:port`",
    )
    kubernetes: bool = Field(
        default=False, description="Read releases and replicas from the pod's namespace"
    )
    traffic: Path | None = Field(
        default=None, description='JSON file: shares of canary pools in percent, `{"next": 20}`'
    )
    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = Field(
        default=MODEL, description="Name of Triton's model"
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8080, description="Port to listen on; 0 selects a free port"
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Number of processes that share the port"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="`debug`, `info`, `warning` or `error`"
    )
    body_limit: Annotated[int, Field(ge=1024, le=64 * 2**20)] = Field(
        default=256 * 1024, description="Maximum size of a request body, in bytes"
    )
    prompt_limit: Annotated[int, Field(ge=1, le=MAX_PROMPT)] = Field(
        default=4000, description="Maximum size of a prompt in UTF-8, in bytes"
    )
    max_images: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = Field(
        default=MAX_IMAGES, description="Maximum number of images in a request"
    )
    max_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = Field(
        default=MAX_STEPS, description="Maximum number of denoising steps of an image"
    )
    max_side: Annotated[int, Field(ge=64, le=MAX_SIDE)] = Field(
        default=MAX_SIDE, description="Maximum side of an image, in pixels"
    )
    memory: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Memory of all workers together, including images in progress, in bytes; "
        "by default 1 GiB for each worker",
    )
    picture_queue: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=256, description="Maximum number of requests that wait for memory"
    )
    picture_wait: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = Field(
        default=30.0, description="Maximum time that a request waits for memory, in seconds"
    )
    request_timeout: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = Field(
        default=300.0, description="Maximum time of a request, in seconds"
    )
    shutdown_timeout: _Seconds = Field(
        default=30.0, description="Seconds to complete in-flight requests when the gateway stops"
    )
    # Releases must take effect within a second, so the default is a fifth of a second.
    poll: Annotated[float, Field(gt=0, le=0.25)] = Field(
        default=0.2, description="Seconds between two polls of releases and replicas"
    )

    @field_validator("triton_url")
    @classmethod
    def _grpc_address(cls, url: str) -> str:
        scheme, separator, rest = url.partition("://")
        if separator and scheme != "grpc":
            raise ValueError("the gateway calls Triton over gRPC; use grpc://host:port")
        try:
            return host_port(*split_host_port(rest if separator else url))
        except ValueError as error:
            raise ValueError(f"{error} (Triton's gRPC port, 8001 by default)") from None

    @model_validator(mode="before")
    @classmethod
    def _own_database(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Set the default: a database in the home."""
        if values.get("database_url") or values.get("ATELIER_DATABASE_URL"):
            return values
        home = values.get("home") or values.get("ATELIER_HOME") or cls.model_fields["home"].default
        return {**values, "database_url": Home(Path(home).absolute()).database_url}

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        try:
            parse_url(url)
        except BadInput as error:
            raise ValueError(str(error).removeprefix("ATELIER_DATABASE_URL: ")) from None
        return url

    @model_validator(mode="after")
    def _room_for_one_call(self) -> GatewaySettings:
        if self.picture_pixels < self.largest_call:
            least = self.workers * (PROCESS_BYTES + BYTES_PER_PIXEL * self.largest_call)
            raise ValueError(
                f"{PREFIX}MEMORY: less than the largest request needs ({least // MIB} MiB); set it "
                f"to {least} or more, or lower {PREFIX}WORKERS, {PREFIX}MAX_IMAGES or "
                f"{PREFIX}MAX_SIDE"
            )
        return self

    @property
    def largest_call(self) -> int:
        """The pixels of the largest allowed request."""
        return self.max_images * max(self.max_side, OWN_SIDE) ** 2

    @property
    def picture_pixels(self) -> int:
        """The pixels that may be in progress in one worker."""
        memory = self.workers * GIB if self.memory is None else self.memory
        return max(0, memory // self.workers - PROCESS_BYTES) // BYTES_PER_PIXEL

    @property
    def reservation_lifetime(self) -> float:
        """Seconds until a reservation expires: more than a request may take."""
        return 2 * self.request_timeout + 60
