"""The settings of `python -m services.triton`, of its Triton server, and of the model.

Triton passes no arguments to the model's process, so the model reads environment variables.
`python -m services.triton` validates the same variables before it starts Triton.
"""

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from atelier.home import HomeSettings
from atelier.settings import Settings
from services.engine.settings import EngineSettings, SampleSettings

_LONGEST_DRAIN: Final = 86_400.0

_Port = Annotated[int, Field(ge=0, le=65535)]
_Seconds = Annotated[float, Field(ge=0, le=_LONGEST_DRAIN, allow_inf_nan=False)]


class TritonSettings(Settings):
    """The settings of a Triton server. Port 0 selects a free port."""

    host: str = Field(
        default="127.0.0.1",
        validation_alias="ATELIER_TRITON_HOST",
        description="Address that Triton listens on; Triton does not check API keys",
    )
    http_port: _Port = Field(
        default=8000,
        validation_alias="ATELIER_TRITON_HTTP_PORT",
        description="Port of V2 over HTTP",
    )
    grpc_port: _Port = Field(
        default=8001,
        validation_alias="ATELIER_TRITON_GRPC_PORT",
        description="Port of V2 over gRPC",
    )
    metrics_port: _Port = Field(
        default=8002,
        validation_alias="ATELIER_TRITON_METRICS_PORT",
        description="Port of Triton's metrics",
    )
    replica: str = Field(default="local", description="Name of this replica")
    drain_seconds: _Seconds = Field(
        default=25.0, description="Seconds to complete running requests when the server stops"
    )
    executable: str | None = Field(
        default=None,
        validation_alias="ATELIER_TRITONSERVER",
        description="Path or name of a `tritonserver` that replaces the one in nvidia-pytriton",
    )


class ServerSettings(TritonSettings, SampleSettings, EngineSettings, HomeSettings):
    """The settings of `python -m services.triton`. The model reads the settings of the engine."""

    base: str = Field(description="Folder or hub ID of the base")
    revision: str | None = Field(
        default=None, description="Commit, tag or branch of the base, if it is a hub ID"
    )
    vae: str | None = Field(
        default=None, description="Folder or hub ID of a VAE that replaces the VAE of the base"
    )


class ModelSettings(SampleSettings, EngineSettings):
    """The settings of the process of the model. `TritonServer` sets the settings of this class."""

    base: str = Field(description="Folder of the base")
    vae: str | None = Field(
        default=None, description="Folder of a VAE that replaces the VAE of the base"
    )
    volume: Path = Field(description="Folder that the agent and the engine share")
    replica: str = Field(default="local", description="Name of this replica")
    control: Path | None = Field(
        default=None,
        description="Folder of the files that request a drain of the model and report its end",
    )
    drain_seconds: _Seconds = Field(
        default=25.0, description="Seconds to complete running requests when the server stops"
    )
