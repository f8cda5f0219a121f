"""Whose signatures are trusted: public keys, and identities for keyless signing, in a folder.

`NAME.pem` is a public key; `NAME.yaml` names an `identity` and its `issuer`, as a certificate of
Sigstore has them, and perhaps its roots as `trust`. NAME is what reports call the signer.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from atelier.data import yaml_model
from atelier.errors import PolicyError, Unavailable

if TYPE_CHECKING:
    from model_signing.verifying import Config

Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class PublicKey:
    """An elliptic-curve public key, as PEM in the form that openssl and cryptography write."""

    name: str
    pem: bytes

    @property
    def fingerprint(self) -> str:
        """What `sha256sum NAME.pem` prints, and what a signature says its key is."""
        return hashlib.sha256(self.pem).hexdigest()

    @property
    def label(self) -> str:
        return f"{self.name} ({self.fingerprint[:12]}…)"

    def may_have_signed(self, key: str | None) -> bool:
        return key == self.fingerprint

    def verifier(self, folder: Path) -> "Config":
        """Checks signatures of this key; `folder` is for files of its own."""
        from model_signing import verifying

        file = folder / "key.pem"
        file.write_bytes(self.pem)
        return verifying.Config().use_elliptic_key_verifier(public_key=file)


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: Text
    issuer: Text
    trust: dict[str, Any] | None = None  # a Sigstore client trust config


@dataclass(frozen=True)
class SignerIdentity:
    """Who a keyless signature's certificate must be for, and who vouched for that."""

    name: str
    identity: str
    issuer: str
    trust: bytes | None = None  # the roots, as JSON; None: the public instance's, fetched

    @property
    def label(self) -> str:
        return f"{self.name} ({self.identity})"

    def may_have_signed(self, key: str | None) -> bool:
        return key is None

    def verifier(self, folder: Path) -> "Config":
        """Checks keyless signatures of this identity; `folder` is for files of its own.

        Unavailable where Sigstore's roots cannot be had.
        """
        from model_signing import verifying

        roots = None
        if self.trust is not None:
            roots = folder / "trust.json"
            roots.write_bytes(self.trust)
        try:
            return verifying.Config().use_sigstore_verifier(
                identity=self.identity, oidc_issuer=self.issuer, trust_config=roots
            )
        except Exception as error:  # of the network, of TUF, of a `trust` that is none
            raise Unavailable(f"{self.label}: Sigstore's roots cannot be had: {error}") from error


Signer = PublicKey | SignerIdentity


def signers_in(folder: Path) -> tuple[Signer, ...]:
    """The signers that a folder holds; PolicyError where it cannot be read or holds others."""
    try:
        files = sorted(one for one in folder.iterdir() if not one.name.startswith("."))
        return signers_of({one.name: one.read_text("utf-8") for one in files}, folder)
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{folder}: signers cannot be read: {error}") from error


def signers_of(files: Mapping[str, str], source: Path) -> tuple[Signer, ...]:
    """The signers that files hold, by name; `source` names them in errors."""
    return tuple(_signer(Path(name), text, source) for name, text in sorted(files.items()))


def _signer(file: Path, text: str, source: Path) -> Signer:
    if file.suffix == ".pem":
        return PublicKey(file.stem, _canonical(text, source / file))
    if file.suffix == ".yaml":
        told = yaml_model.parse(text, source / file, _Told, PolicyError)
        trust = json.dumps(told.trust).encode() if told.trust else None
        return SignerIdentity(file.stem, told.identity, told.issuer, trust)
    raise PolicyError(
        f"{source / file}: a signer is NAME.pem, a public key, or NAME.yaml, an identity"
    )


def _canonical(text: str, place: Path) -> bytes:
    """The key as the library writes it, so that line endings change no fingerprint."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_public_key,
    )

    try:
        found = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PolicyError(f"{place}: not a public key as PEM ({error})") from error
    if not isinstance(found, EllipticCurvePublicKey):
        raise PolicyError(f"{place}: not an elliptic-curve key, and only those sign packages")
    return found.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
