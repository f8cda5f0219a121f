"""The provenance of an adapter that an image names: registry version, lineage and signature."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from atelier.adapter.signature import claim, verify
from atelier.adapter.signers import Signer
from atelier.errors import AdapterRejected, BadInput, SignatureRejected
from atelier.home import Home
from atelier.stores.packages import fetched
from atelier.stores.registry import Registry, VersionInfo


@dataclass(frozen=True)
class SignatureCheck:
    """The result of checking a version's signatures; `unchecked` if no signers are given."""

    state: Literal["unsigned", "unchecked", "good", "refused"]
    keys: tuple[str | None, ...] = ()  # that the signatures name; None: keyless
    signer: str | None = None  # of a good signature
    why: str | None = None  # the reason of a refusal

    def to_json(self) -> dict[str, Any]:
        """Return the fields that apply to the state."""
        if self.state == "refused":
            return {"state": self.state, "why": self.why}
        signer = {"signer": self.signer} if self.state == "good" else {}
        return {"state": self.state, "keys": list(self.keys), **signer}


@dataclass(frozen=True)
class Provenance:
    """An adapter of an image, compared with the registry.

    `unregistered` is a package from a folder. `known` has a lineage and a signature. The other
    states have a reason (`why`).
    """

    registry: Literal["known", "unregistered", "unknown", "another digest", "damaged"]
    why: str | None = None
    lineage: Mapping[str, str | None] | None = None
    signature: SignatureCheck | None = None

    @property
    def is_good(self) -> bool:
        """Whether version, digest and signature passed. An unregistered adapter passes too."""
        refused = self.signature is not None and self.signature.state == "refused"
        return self.registry in ("known", "unregistered") and not refused

    def to_json(self) -> dict[str, Any]:
        """Return the fields that have a value."""
        fields = {
            "registry": self.registry,
            "why": self.why,
            "lineage": self.lineage,
            "signature": self.signature.to_json() if self.signature else None,
        }
        return {name: value for name, value in fields.items() if value is not None}


def provenance_of(
    registry: Callable[[], Registry],
    home: Home,
    name: str,
    version: int | None,
    digest: str,
    signers: Sequence[Signer] | None = None,
) -> Provenance:
    """Compare the version and digest of an adapter in an image with the registry.

    An adapter without a version needs no registry. With `signers`, the package is fetched and its
    signature is verified. Raises Unavailable if the registry does not respond.
    """
    if version is None:
        return Provenance("unregistered")
    client = registry()
    try:
        info = client.version(name, version)
    except BadInput as error:
        return Provenance("unknown", str(error))
    if info.digest != digest:
        return Provenance("another digest", f"the registry has {info.digest}")
    try:
        manifest = client.manifest(info)
    except AdapterRejected as error:
        return Provenance("damaged", str(error))
    lineage = {
        "run": info.run_id,
        **manifest.model_dump(include={"dataset", "recipe", "git_commit"}),
        "registered": info.created.isoformat(timespec="seconds"),
    }
    return Provenance("known", None, lineage, _signature(client, home, info, signers))


def _signature(
    registry: Registry, home: Home, info: VersionInfo, signers: Sequence[Signer] | None
) -> SignatureCheck:
    signatures = registry.signatures(info)
    try:
        if signers is not None:
            package = fetched(registry, home, info)
            verified = verify(package, signatures, signers)
            key = claim(verified.signature).key
            return SignatureCheck("good", (key,), verified.signer.name)
        keys = tuple(claim(signature).key for signature in signatures)
    except SignatureRejected as error:
        return SignatureCheck("refused", why=str(error))
    return SignatureCheck("unchecked" if signatures else "unsigned", keys)
