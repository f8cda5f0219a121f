"""Sign versions of an adapter, by digest, and each version only once per key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atelier.adapter import signature
from atelier.adapter.package import Package
from atelier.adapter.signers import PublicKey
from atelier.data.declaration import Declarations
from atelier.errors import Refused, SignatureRejected
from atelier.home import Home
from atelier.stores.packages import fetched
from atelier.stores.registry import Registry, VersionInfo


@dataclass(frozen=True)
class SigningKey:
    """The PEM of an elliptic-curve private key, and its password."""

    pem: bytes
    password: str | None = None

    @property
    def public(self) -> PublicKey:
        """The public key; raises BadInput if the key cannot sign."""
        return signature.key_of(self.pem, self.password)


@dataclass(frozen=True)
class SignedVersion:
    """A version with a signature. `signed` is False if the key had signed it before."""

    version: int
    digest: str
    signed: bool


def declared_versions(declarations: Declarations, name: str) -> dict[str, str | None]:
    """Return the digests of the declared versions, by version.

    Raises DeclarationError if git declares no version of the adapter.
    """
    return {str(pin.version): pin.digest for pin in declarations.get(name).served}


def sign_versions(
    registry: Registry,
    home: Home,
    name: str,
    digests: Mapping[str, str | None],
    key: SigningKey | None,
) -> Sequence[SignedVersion]:
    """Sign versions of an adapter in OpenSSF's model-signing format.

    The keys of `digests` are version numbers or aliases. Its values are the required digests, None
    for any digest. If one version has another digest, nothing is signed. Without a key, the
    identity of the CI job signs (keyless, through Sigstore). Raises Refused for another digest,
    BadInput for an unknown version or a key that cannot sign, and Unavailable if the registry or
    Sigstore does not respond.
    """
    public = key.public if key else None
    versions = [_required(registry, name, version, digest) for version, digest in digests.items()]
    return [_sign(registry, home, version, key, public) for version in versions]


def _required(registry: Registry, name: str, version: str, digest: str | None) -> VersionInfo:
    """Return the version; raise Refused if it has another digest."""
    info = registry.version(name, version)
    if digest not in (None, info.digest):
        raise Refused(
            f"{name}@{info.version}: must have {digest}, but the registry has {info.digest}; "
            "nothing is signed"
        )
    return info


def _sign(
    registry: Registry,
    home: Home,
    info: VersionInfo,
    key: SigningKey | None,
    public: PublicKey | None,
) -> SignedVersion:
    package = fetched(registry, home, info)
    file = signature.file_of(public)
    stored = registry.attestation(info, file)
    if public and stored is not None and _has_signed(public, package, stored):
        return SignedVersion(info.version, info.digest, signed=False)
    registry.attest(info, file, _signature(package, key))
    return SignedVersion(info.version, info.digest, signed=True)


def _signature(package: Package, key: SigningKey | None) -> bytes:
    if key is None:
        return signature.sign_keyless(package)
    return signature.sign(package, key.pem, key.password)


def _has_signed(key: PublicKey, package: Package, stored: bytes) -> bool:
    try:
        return bool(signature.verify(package, [stored], [key]))
    except SignatureRejected:
        return False
