"""The settings of the modules that train, evaluate and compile, in a Job or started by hand."""

from pydantic import Field

from atelier.home import HomeSettings
from services.engine.settings import EngineSettings


class JobSettings(EngineSettings, HomeSettings):
    """The settings of every `python -m pipelines.…` except the hook.

    They include the engine's, because an evaluation renders with an engine.
    """

    git_commit: str | None = Field(
        default=None, description="Commit that the recipe is from; by default the checkout's"
    )
