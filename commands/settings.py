"""The settings of the `atelier` command, beside the variables that stand in for its options."""

from pydantic import Field

from atelier.adapter.signature_policy import SignatureSettings
from atelier.home import Home
from pipelines.settings import JobSettings


class CommandSettings(SignatureSettings, JobSettings):
    """What commands read; an option with a variable of its own names it in `--help`."""

    database: str | None = Field(
        default=None,
        repr=False,
        validation_alias="ATELIER_DATABASE_URL",
        description="Keys and usage: `sqlite:///…` or `postgresql://…`; by default in the home",
    )
    helm: str = Field(default="helm", description="Helm 4: a path or a name")
    signing_key: str | None = Field(
        default=None, repr=False, description="Private key for `atelier sign`, as PEM"
    )
    signing_password: str | None = Field(default=None, repr=False, description="Its password")

    @property
    def database_url(self) -> str:
        """The database of keys and usage; it may hold a password."""
        return self.database or Home(self.home).database_url
