"""The settings of `python -m pipelines.delivery.cluster.hook`."""

from typing import Annotated

from pydantic import Field

from atelier.home import HomeSettings
from pipelines.delivery.smoke import TOLERANCE


class HookSettings(HomeSettings):
    """The settings of a release's hook. A command-line option overrides its variable."""

    environment: str | None = Field(default=None, description="Alias that follows the releases")
    gateway: str | None = Field(default=None, description="Address of the gateway")
    key: str | None = Field(
        default=None, repr=False, description="API key of the gateway for the smoke test"
    )
    smoke_required: bool = Field(
        default=True, description="Whether a release fails without a key for the smoke test"
    )
    smoke_tolerance: Annotated[float, Field(gt=0, le=255, allow_inf_nan=False)] = Field(
        default=TOLERANCE,
        description="Allowed mean difference from the evaluated image, in levels of 255",
    )
