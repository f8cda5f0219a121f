"""The settings of `python -m services.agent`."""

from typing import Annotated

from pydantic import Field

from atelier.adapter.signature_policy import SignatureSettings
from atelier.home import HomeSettings

_Port = Annotated[int, Field(ge=0, le=65535)]


class AgentSettings(SignatureSettings, HomeSettings):
    """Who the replica is, and which signatures count. Options come before variables."""

    replica: str = Field(default="local", description="Name of this replica; in a pod the pod's")
    pool: str | None = Field(default=None, description="Its pool: `stable`, or a canary's name")
    http_port: _Port | None = Field(
        default=None,
        validation_alias="ATELIER_TRITON_HTTP_PORT",
        description="Triton's HTTP port, for the replica's report; in a pod 8080",
    )
    grpc_port: _Port | None = Field(
        default=None,
        validation_alias="ATELIER_TRITON_GRPC_PORT",
        description="Triton's gRPC port, for the replica's report; in a pod 9000",
    )
