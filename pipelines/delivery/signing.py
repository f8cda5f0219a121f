"""Signs versions of an adapter: exactly the given digests, and each version once by a key."""

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
    """A private key: PEM of an elliptic-curve key, and its password."""

    pem: bytes
    password: str | None = None

    @property
    def public(self) -> PublicKey:
        """The public half; BadInput where the key cannot sign."""
        return signature.key_of(self.pem, self.password)


@dataclass(frozen=True)
class SignedVersion:
    """A version with a signature. `signed` is False where the key had signed it before."""

    version: int
    digest: str
    signed: bool


def declared_versions(declarations: Declarations, name: str) -> dict[str, str | None]:
    """The digests, by version, that git lets serve; DeclarationError where it declares none."""
    return {str(pin.version): pin.digest for pin in declarations.get(name).served}


def sign_versions(
    registry: Registry,
    home: Home,
    name: str,
    digests: Mapping[str, str | None],
    key: SigningKey | None,
) -> Sequence[SignedVersion]:
    """Sign an adapter's versions, by number or alias; without a key as this CI job (keyless).

    `digests` has the digest that each version must have, None for any. Nothing is signed unless all
    have theirs. Raises Refused where one has another digest, BadInput for an unknown version or a
    key that cannot sign, and Unavailable where the registry or Sigstore is away.
    """
    public = key.public if key else None
    versions = [_required(registry, name, version, digest) for version, digest in digests.items()]
    return [_sign(registry, home, version, key, public) for version in versions]


def _required(registry: Registry, name: str, version: str, digest: str | None) -> VersionInfo:
    """The version; Refused where its digest is another one."""
    info = registry.version(name, version)
    if digest not in (None, info.digest):
        raise Refused(
            f"{name}@{info.version}: should be {digest}, but the registry has {info.digest}; "
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
    known = registry.attestation(info, file)
    if public and known is not None and _has_signed(public, package, known):
        return SignedVersion(info.version, info.digest, signed=False)
    made = _signature(package, key)
    registry.attest(info, file, made)
    return SignedVersion(info.version, info.digest, signed=True)


def _signature(package: Package, key: SigningKey | None) -> bytes:
    if key is None:
        return signature.sign_keyless(package)
    return signature.sign(package, key.pem, key.password)


def _has_signed(key: PublicKey, package: Package, known: bytes) -> bool:
    try:
        return bool(signature.verify(package, [known], [key]))
    except SignatureRejected:
        return False
