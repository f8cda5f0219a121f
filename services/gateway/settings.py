"""What the operator sets, by environment variables; nonsense is refused before anything starts."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from atelier.errors import BadInput
from atelier.home import Home
from atelier.validation import mistakes
from services.gateway.database import parse_url

PREFIX = "ATELIER_GATEWAY_"
# Variables that other processes read too; every other field is set by ATELIER_GATEWAY_<FIELD>.
SHARED = {
    "home": "ATELIER_HOME",
    "database_url": "ATELIER_DATABASE_URL",
    "triton_url": "ATELIER_TRITON_URL",
}


class Settings(BaseModel):
    """The gateway's settings. Times are in seconds, sizes in bytes or pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path
    # repr=False: an address may hold a password, and settings end up in logs.
    database_url: str = Field(repr=False)
    triton_url: str = "127.0.0.1:8001"
    kubernetes: bool = False  # releases and replicas are the namespace's, by `atelier.platform`
    traffic: Path | None = None  # a file of canary pools' shares, in place of KServe's
    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = "atelier"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    workers: Annotated[int, Field(ge=1, le=64)] = 1  # processes that share the port
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    body_limit: Annotated[int, Field(ge=1024, le=64 * 2**20)] = 256 * 1024
    prompt_limit: Annotated[int, Field(ge=1, le=10_000)] = 4000
    max_images: Annotated[int, Field(ge=1, le=8)] = 8
    max_steps: Annotated[int, Field(ge=1, le=150)] = 150
    max_side: Annotated[int, Field(ge=64, le=2048)] = 2048
    request_timeout: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 300.0
    shutdown_timeout: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 30.0
    # How often releases and replicas are looked at: the design promises a second, this is a fifth.
    poll: Annotated[float, Field(gt=0, le=0.25)] = 0.2

    @field_validator("triton_url")
    @classmethod
    def _grpc_address(cls, url: str) -> str:
        scheme, separator, rest = url.partition("://")
        address = rest if separator else url
        if separator and scheme != "grpc":
            raise ValueError(f"{url}: the gateway speaks gRPC to Triton; give grpc://host:port")
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{url}: not host:port (Triton's gRPC port, 8001 by default)")
        return address

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        try:
            parse_url(url)
        except BadInput as error:
            raise ValueError(str(error)) from None
        return url

    @property
    def reservation_lifetime(self) -> float:
        """Longer than a request may last, so that only a crash lets a reservation expire."""
        return 2 * self.request_timeout + 60

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the variables; BadInput names each that is unknown or makes no sense."""
        env = os.environ if environment is None else environment
        variables = {field: SHARED.get(field, PREFIX + field.upper()) for field in cls.model_fields}
        _refuse_unknown(set(env), set(variables.values()))
        values: dict[str, Any] = {
            field: env[variable] for field, variable in variables.items() if env.get(variable)
        }
        values["home"] = Path(values.get("home", Home.find().root)).absolute()
        values.setdefault("database_url", f"sqlite:///{values['home'] / 'gateway.db'}")
        try:
            return cls(**values)
        except ValidationError as error:
            lines = [f"{variables[str(one.loc[0])]}: {one.text}" for one in mistakes(error)]
            raise BadInput("; ".join(lines)) from None


def _refuse_unknown(given: set[str], known: set[str]) -> None:
    for variable in sorted(given - known):
        if variable.startswith(PREFIX):
            near = difflib.get_close_matches(variable, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
            raise BadInput(f"{variable} is not a setting of the gateway; {hint}")
