"""Signatures of packages in OpenSSF's format: statements beside a package, no part of its digest.

A signature is a Sigstore bundle over the digest of every file, made with an elliptic-curve key or,
keyless, with a certificate for an OpenID identity. `model_signing verify` reads ours.
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

_PREFIX, _SUFFIX = "model-", ".sig"  # of their names beside a version, one a key
_CURVES = ("secp256r1", "secp384r1", "secp521r1")  # those of Sigstore's bundles


@dataclass(frozen=True)
class Claim:
    """What a signature says about itself; nobody has checked it yet."""

    key: str | None  # sha256 in hex of the public key's PEM; None: keyless
    files: frozenset[str]


@dataclass(frozen=True)
class Verified:
    """A signature that is good, and whose it is."""

    signer: Signer
    signature: bytes


def file_of(key: PublicKey | None) -> str:
    """A signature's name beside a version; None: keyless. So no key takes another's place."""
    return f"{_PREFIX}{key.fingerprint[:12] if key else 'keyless'}{_SUFFIX}"


def is_file(name: str) -> bool:
    """Whether a file beside a version is a signature."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def claim(signature: bytes) -> Claim:
    """Read a signature; SignatureRejected where it is none."""
    try:
        bundle = json.loads(signature)
        material = bundle["verificationMaterial"]
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        files = frozenset(str(one["name"]) for one in statement["predicate"]["resources"])
        key = str(material["publicKey"]["hint"]) if "publicKey" in material else None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SignatureRejected(
            "its signature cannot be read: cut short or damaged; sign it again"
        ) from error
    return Claim(key, files)


def sign(package: Package, pem: bytes, password: str | None = None) -> bytes:
    """A package's signature by a private key; BadInput where the key cannot sign."""
    key_of(pem, password)
    from model_signing import signing

    with tempfile.TemporaryDirectory() as folder:  # the library reads keys from files; 0700
        key, made = Path(folder) / "key", Path(folder) / "made"
        key.write_bytes(pem)
        secret = password.encode() if password else None  # handed on to cryptography, as it is
        config = signing.Config().use_elliptic_key_signer(private_key=key, password=secret)
        config.sign(package.path, made)
        return made.read_bytes()


def sign_keyless(package: Package) -> bytes:
    """A package's signature by the identity that this CI job has; Unavailable without Sigstore."""
    from model_signing import signing
    from sigstore.oidc import detect_credential

    try:
        token = detect_credential()
    except Exception as error:  # each CI service's own
        raise Unavailable(f"keyless: the identity of this job cannot be had: {error}") from error
    if token is None:
        raise BadInput(
            "keyless: nothing here vouches for an identity; in GitHub Actions the job needs "
            "`permissions: {id-token: write}`, elsewhere sign with a key"
        )
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        try:
            config = signing.Config().use_sigstore_signer(identity_token=token)
            config.sign(package.path, made)
        except Exception as error:  # TUF's, Fulcio's, Rekor's
            raise Unavailable(f"keyless: Sigstore did not sign: {error}") from error
        return made.read_bytes()


def key_of(pem: bytes, password: str | None = None) -> PublicKey:
    """The public half of a private key; BadInput where that is none or of another kind."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = load_pem_private_key(pem, password.encode() if password else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInput(
            f"the signing key cannot be read ({error}); it is a private key as PEM, its password, "
            "where it has one, in ATELIER_SIGNING_PASSWORD"
        ) from error
    if not isinstance(found, EllipticCurvePrivateKey) or found.curve.name not in _CURVES:
        raise BadInput(
            "the signing key is of another kind; make one with "
            "`openssl ecparam -name prime256v1 -genkey -noout`"
        )
    return PublicKey("this key", _public(found))


def _public(private: "EllipticCurvePrivateKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def verify(package: Package, signatures: Sequence[bytes], signers: Sequence[Signer]) -> Verified:
    """The first of its signatures by which one of `signers` signed a package as it is.

    SignatureRejected says why none is; Unavailable where that takes Sigstore's roots, and they
    cannot be had.
    """
    name = package.manifest.name
    if not signatures:
        raise SignatureRejected(f"{name}: is not signed; `atelier sign` signs a version")
    reasons: list[str] = []
    away: Unavailable | None = None
    for signature in signatures:
        try:
            return Verified(_signer(package, signature, signers), signature)
        except SignatureRejected as error:
            reasons.append(str(error))
        except Unavailable as error:
            away = error
    raise away or SignatureRejected(f"{name}: {'; '.join(reasons)}")


def _signer(package: Package, signature: bytes, signers: Sequence[Signer]) -> Signer:
    said = claim(signature)
    if said.files != {MANIFEST, *package.manifest.files}:  # a signer may have left some out
        raise SignatureRejected(
            f"its signature covers {', '.join(sorted(said.files)) or 'nothing'}, not the package's "
            "files; it is another's, or the package was altered after signing"
        )
    candidates = [one for one in signers if one.may_have_signed(said.key)]
    if not candidates:
        who = f"key {said.key[:12]}…" if said.key else "an identity"
        trusted = ", ".join(one.label for one in signers) or "nobody"
        raise SignatureRejected(f"signed by {who}; trusted are {trusted}")
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
            except Exception as error:  # whatever a stranger's bytes make its libraries say
                reasons.append(f"{signer.label}: {_reason(error)}")
    raise SignatureRejected(f"its signature is wrong: {'; '.join(reasons)}")


def _reason(error: Exception) -> str:
    text = redact(str(error)) or type(error).__name__  # before it is cut
    if text.startswith("Signature mismatch"):
        text = "the package was altered after signing"
    return text if len(text) < 200 else f"{text[:200]}…"
