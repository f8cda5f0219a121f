"""The signature policy of an environment, which agents and promotions apply.

On a cluster the policy is `serving.signatures` in the values of charts/atelier (platform.yaml):
`policy` is `off`, `warn` or `enforce`; `signers` are files by name (see `adapter/signers.py`). On
one machine it is set by the variables ATELIER_SIGNATURES and ATELIER_SIGNERS (a folder).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from atelier.adapter.package import Package
from atelier.adapter.signature import verify
from atelier.adapter.signers import Signer, signers_in, signers_of
from atelier.data import yaml_model
from atelier.errors import PolicyError, SignatureRejected, Unavailable
from atelier.settings import Settings

SignatureMode = Literal["off", "warn", "enforce"]


class SignatureSettings(Settings):
    """The settings of a process that checks signatures, on one machine or in a pod."""

    signatures: SignatureMode = Field(
        default="off",
        description="Policy for the signatures of packages: `off`, `warn` or `enforce`",
    )
    signers: Path | None = Field(
        default=None, description="Folder of trusted signers (docs/signing.md)"
    )


class _Signatures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: SignatureMode = "off"
    signers: dict[str, str] = {}


class _Serving(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    signatures: _Signatures = _Signatures()


class _Platform(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    serving: _Serving = _Serving()


@dataclass(frozen=True)
class Checked:
    """The signature to keep and, under `warn`, its fault."""

    signature: bytes | None = None
    warning: str | None = None


@dataclass(frozen=True)
class SignaturePolicy:
    """A signature policy and its trusted signers."""

    policy: SignatureMode = "off"
    signers: tuple[Signer, ...] = ()

    def __post_init__(self) -> None:
        if self.policy == "enforce" and not self.signers:
            raise PolicyError(
                "signatures: the policy `enforce` has no signer, so no version could serve; name "
                "one"
            )

    @classmethod
    def of_platform(cls, file: Path) -> Self:
        """Read the policy from the values of a platform. Raises PolicyError, with the line."""
        signatures = yaml_model.load(file, _Platform, PolicyError).serving.signatures
        try:
            return cls(signatures.policy, signers_of(signatures.signers, file))
        except PolicyError as error:
            raise PolicyError(f"{file}: {error}") from error

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the policy from ATELIER_SIGNATURES and ATELIER_SIGNERS; off by default."""
        return cls.of(SignatureSettings.read(environment))

    @classmethod
    def of(cls, settings: SignatureSettings) -> Self:
        """Return the policy of the settings. Raises PolicyError for invalid or missing signers."""
        folder = settings.signers if settings.signatures != "off" else None
        return cls(settings.signatures, signers_in(folder) if folder else ())

    def check(self, package: Package, signatures: Sequence[bytes]) -> Checked:
        """Return the first valid signature of a package, or the warning of the policy `warn`.

        Under `enforce`, raises SignatureRejected if there is none, and Unavailable if Sigstore's
        roots are needed and cannot be fetched.
        """
        if self.policy == "off":
            return Checked()
        try:
            return Checked(verify(package, signatures, self.signers).signature)
        except (SignatureRejected, Unavailable) as error:
            if self.policy == "enforce":
                raise
            warning = f"{error} (served anyway: the policy is warn)"
            return Checked(next(iter(signatures), None), warning)
