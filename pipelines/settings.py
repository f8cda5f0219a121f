"""The settings of what trains, compiles and judges: Jobs, and the same modules started by hand."""

from pydantic import Field

from atelier.home import HomeSettings
from services.engine.settings import EngineSettings


class JobSettings(EngineSettings, HomeSettings):
    """The settings of every `python -m pipelines.…` but the hook. The engine's are for verdicts."""

    git_commit: str | None = Field(
        default=None, description="Commit that the recipe is from; by default the checkout's"
    )
