"""Settings of the `atelier` command that are not options of a single command."""

from pydantic import Field

from atelier.adapter.signature_policy import SignatureSettings
from atelier.home import Home
from pipelines.settings import JobSettings


class CommandSettings(SignatureSettings, JobSettings):
    """Environment variables that commands read.

    A variable that sets an option of one command is listed in the `--help` of this command.
    """

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
    signing_password: str | None = Field(
        default=None, repr=False, description="Password of ATELIER_SIGNING_KEY"
    )

    @property
    def database_url(self) -> str:
        """The URL of the database of keys and usage. It may contain a password."""
        return self.database or Home(self.home).database_url
