"""Trusted signers: a folder of public keys and of identities for keyless signing.

`NAME.pem` is a public key. `NAME.yaml` gives the `identity` and `issuer` in a Sigstore certificate
and, optionally, Sigstore's roots as `trust`. Reports call the signer NAME.
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
    """An elliptic-curve public key; `pem` has the line breaks of openssl and cryptography."""

    name: str
    pem: bytes

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the PEM in hex; `sha256sum NAME.pem` prints it, signatures store it."""
        return hashlib.sha256(self.pem).hexdigest()

    @property
    def label(self) -> str:
        """Name and short fingerprint, for messages."""
        return f"{self.name} ({self.fingerprint[:12]}…)"

    def may_have_signed(self, key: str | None) -> bool:
        """Return whether `key`, a fingerprint or None for keyless, is this key."""
        return key == self.fingerprint

    def verifier(self, folder: Path) -> "Config":
        """Return a verifier for signatures of this key; write its files to `folder`."""
        from model_signing import verifying

        file = folder / "key.pem"
        file.write_bytes(self.pem)
        return verifying.Config().use_elliptic_key_verifier(public_key=file)


class _IdentityFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: Text
    issuer: Text
    trust: dict[str, Any] | None = None  # a Sigstore client trust config


@dataclass(frozen=True)
class SignerIdentity:
    """The identity and issuer that the certificate of a keyless signature must have."""

    name: str
    identity: str
    issuer: str
    trust: bytes | None = None  # Sigstore's roots as JSON; None: fetched from the public instance

    @property
    def label(self) -> str:
        """Name and identity, for messages."""
        return f"{self.name} ({self.identity})"

    def may_have_signed(self, key: str | None) -> bool:
        """Return whether the signature is keyless: `key` is None."""
        return key is None

    def verifier(self, folder: Path) -> "Config":
        """Return a verifier for keyless signatures of this identity; write its files to `folder`.

        Raises Unavailable if Sigstore's roots cannot be fetched.
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
        except Exception as error:  # of the network, of TUF, or of an invalid `trust`
            raise Unavailable(
                f"{self.label}: cannot get Sigstore's roots: {error}; try again, or give the roots "
                "as `trust`"
            ) from error


Signer = PublicKey | SignerIdentity


def signers_in(folder: Path) -> tuple[Signer, ...]:
    """Return the signers in a folder. Raises PolicyError if a file is no readable signer."""
    try:
        files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
        return signers_of({file.name: file.read_text("utf-8") for file in files}, folder)
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(
            f"{folder}: cannot read the signers: {error}; give a folder of readable text files"
        ) from error


def signers_of(files: Mapping[str, str], source: Path) -> tuple[Signer, ...]:
    """Return the signers in `files` (text by file name); errors name `source` as their folder."""
    return tuple(_signer(Path(name), text, source) for name, text in sorted(files.items()))


def _signer(file: Path, text: str, source: Path) -> Signer:
    if file.suffix == ".pem":
        return PublicKey(file.stem, _canonical(text, source / file))
    if file.suffix == ".yaml":
        content = yaml_model.parse(text, source / file, _IdentityFile, PolicyError)
        trust = json.dumps(content.trust).encode() if content.trust else None
        return SignerIdentity(file.stem, content.identity, content.issuer, trust)
    raise PolicyError(
        f"{source / file}: is not a signer; name it NAME.pem (a public key) or NAME.yaml (an "
        "identity)"
    )


def _canonical(text: str, place: Path) -> bytes:
    """Return the key as cryptography writes it, so line endings do not change the fingerprint."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_public_key,
    )

    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PolicyError(f"{place}: is not a public key ({error}); give one as PEM") from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise PolicyError(
            f"{place}: is not an elliptic-curve key; only such keys can sign packages"
        )
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
