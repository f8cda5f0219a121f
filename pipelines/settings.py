"""The settings of the modules that train, evaluate and compile, in a Job or started by hand."""

from pydantic import Field

from atelier.home import HomeSettings
from services.engine.settings import EngineSettings


class JobSettings(EngineSettings, HomeSettings):
    """The settings of every `python -m pipelines.…` except the hook.

    They include the settings of the engine, because an evaluation renders pictures with an engine.
    """

    git_commit: str | None = Field(
        default=None, description="Commit of the recipe; by default the commit of the checkout"
    )
