"""Signatures of packages, in the format of OpenSSF Model Signing.

A signature is a Sigstore bundle over the digest of every file, made with an elliptic-curve key or,
keyless, with a certificate for an OpenID identity. The signature is stored beside the package,
whose digest stays the same. `model_signing verify` reads these signatures.
"""

import base64
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atelier.adapter.package import MANIFEST, Package
from atelier.adapter.signers import PublicKey, Signer
from atelier.addresses import redact
from atelier.errors import BadInput, SignatureRejected, Unavailable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_PREFIX, _SUFFIX = "model-", ".sig"  # in the file names of signatures, one per key
_CURVES = ("secp256r1", "secp384r1", "secp521r1")  # supported by Sigstore's bundles


@dataclass(frozen=True)
class Claim:
    """The key and files that a signature states, unverified."""

    key: str | None  # SHA-256 in hex of the public key's PEM; None: keyless
    files: frozenset[str]


@dataclass(frozen=True)
class Verified:
    """A valid signature and its signer."""

    signer: Signer
    signature: bytes


def file_of(key: PublicKey | None) -> str:
    """Return the file name of a key's signature (None: keyless), different for each key."""
    return f"{_PREFIX}{key.fingerprint[:12] if key else 'keyless'}{_SUFFIX}"


def is_file(name: str) -> bool:
    """Return whether a file of this name is a signature."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def claim(signature: bytes) -> Claim:
    """Parse a signature without verifying it. Raises SignatureRejected if it is malformed."""
    try:
        bundle = json.loads(signature)
        material = bundle["verificationMaterial"]
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        files = frozenset(str(file["name"]) for file in statement["predicate"]["resources"])
        key = str(material["publicKey"]["hint"]) if "publicKey" in material else None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SignatureRejected(
            "the signature cannot be read: it is truncated or damaged; sign the version again"
        ) from error
    return Claim(key, files)


def sign(package: Package, pem: bytes, password: str | None = None) -> bytes:
    """Sign a package with a private key in PEM. Raises BadInput if the key cannot sign."""
    key_of(pem, password)
    from model_signing import signing

    with tempfile.TemporaryDirectory() as folder:  # mode 0700: the library reads keys from files
        key, output = Path(folder) / "key", Path(folder) / "made"
        key.write_bytes(pem)
        secret = password.encode() if password else None  # passed unchanged to cryptography
        config = signing.Config().use_elliptic_key_signer(private_key=key, password=secret)
        config.sign(package.path, output)
        return output.read_bytes()


def sign_keyless(package: Package) -> bytes:
    """Sign a package with the OpenID identity of this CI job.

    Raises BadInput outside of a CI job with an identity, Unavailable if Sigstore fails.
    """
    from model_signing import signing
    from sigstore.oidc import detect_credential

    try:
        token = detect_credential()
    except Exception as error:  # differs by CI service
        raise Unavailable(
            f"keyless: cannot get the identity of this job: {error}; run it again"
        ) from error
    if token is None:
        raise BadInput(
            "keyless: this process has no OpenID identity; in GitHub Actions give the job "
            "`permissions: {id-token: write}`, elsewhere sign with a key"
        )
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "made"
        try:
            config = signing.Config().use_sigstore_signer(identity_token=token)
            config.sign(package.path, output)
        except Exception as error:  # of TUF, Fulcio or Rekor
            raise Unavailable(f"keyless: Sigstore failed to sign: {error}; try again") from error
        return output.read_bytes()


def key_of(pem: bytes, password: str | None = None) -> PublicKey:
    """Return the public key of a private key in PEM. Raises BadInput for other kinds of keys."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(pem, password.encode() if password else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInput(
            f"the signing key cannot be read ({error}); give a private key as PEM, and its "
            "password, if it has one, in ATELIER_SIGNING_PASSWORD"
        ) from error
    if not isinstance(private, EllipticCurvePrivateKey) or private.curve.name not in _CURVES:
        raise BadInput(
            "the kind of the signing key is not supported; make a key with "
            "`openssl ecparam -name prime256v1 -genkey -noout`"
        )
    return PublicKey("this key", _public(private))


def _public(private: "EllipticCurvePrivateKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def verify(package: Package, signatures: Sequence[bytes], signers: Sequence[Signer]) -> Verified:
    """Return the first valid signature of a package by one of `signers`.

    Raises SignatureRejected with the reasons if there is none, Unavailable if the roots of Sigstore
    are needed and cannot be fetched.
    """
    name = package.manifest.name
    if not signatures:
        raise SignatureRejected(f"{name}: is not signed; sign the version with `atelier sign`")
    reasons: list[str] = []
    unavailable: Unavailable | None = None
    for signature in signatures:
        try:
            return Verified(_signer(package, signature, signers), signature)
        except SignatureRejected as error:
            reasons.append(str(error))
        except Unavailable as error:
            unavailable = error
    raise unavailable or SignatureRejected(f"{name}: {'; '.join(reasons)}")


def _signer(package: Package, signature: bytes, signers: Sequence[Signer]) -> Signer:
    stated = claim(signature)
    if stated.files != {MANIFEST, *package.manifest.files}:  # a signer may have omitted some files
        raise SignatureRejected(
            f"the signature covers {', '.join(sorted(stated.files)) or 'no file'}, not the "
            "package's files; it belongs to another package, or the package was altered after "
            "signing"
        )
    candidates = [signer for signer in signers if signer.may_have_signed(stated.key)]
    if not candidates:
        actual = f"key {stated.key[:12]}…" if stated.key else "an identity"
        trusted = ", ".join(signer.label for signer in signers) or "no signers"
        raise SignatureRejected(
            f"signed by {actual}, which is not trusted; trusted are {trusted}; "
            "sign the version with a trusted key, or add the signer to the policy"
        )
    reasons = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "signature"
        file.write_bytes(signature)
        for signer in candidates:
            config = signer.verifier(Path(folder))
            try:
                config.verify(package.path, file)
                return signer
            except OSError:
                raise
            except Exception as error:  # untrusted bytes may raise any error of the libraries
                reasons.append(f"{signer.label}: {_reason(error)}")
    raise SignatureRejected(f"the signature is invalid: {'; '.join(reasons)}")


def _reason(error: Exception) -> str:
    text = redact(str(error)) or type(error).__name__  # a cut secret would not be recognized
    if text.startswith("Signature mismatch"):
        text = "the package was altered after signing"
    return text if len(text) < 200 else f"{text[:200]}…"
