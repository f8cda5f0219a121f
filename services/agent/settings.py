"""The settings of `python -m services.agent`."""

from typing import Annotated

from pydantic import Field

from atelier.adapter.signature_policy import SignatureSettings
from atelier.home import HomeSettings

_Port = Annotated[int, Field(ge=0, le=65535)]


class AgentSettings(SignatureSettings, HomeSettings):
    """The identity of the replica and the signature policy. Options override variables."""

    replica: str = Field(
        default="local", description="Name of this replica; in a pod, the name of the pod"
    )
    environment: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] = Field(
        default="local", description="Environment whose live scores get the sampled images"
    )
    pool: str | None = Field(
        default=None, description="Pool of this replica: `stable` or the name of an engine canary"
    )
    http_port: _Port | None = Field(
        default=None,
        validation_alias="ATELIER_TRITON_HTTP_PORT",
        description="Triton's HTTP port, for the report; default in a pod: 8080",
    )
    grpc_port: _Port | None = Field(
        default=None,
        validation_alias="ATELIER_TRITON_GRPC_PORT",
        description="Triton's gRPC port, for the report; default in a pod: 9000",
    )
