"""`atelier sign`: a version of an adapter gets a signature that agents and people can check."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.errors import BadInput, Refused, SignatureRejected
from atelier.home import Home
from commands.verb import Answer

if TYPE_CHECKING:
    from atelier.adapter.package import Package
    from atelier.adapter.signers import PublicKey
    from atelier.stores.registry import Registry, VersionInfo


def sign(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The adapter.")],
    version: Annotated[
        str | None,
        typer.Argument(metavar="VERSION", help="Its number in the registry, or an alias."),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(metavar="ENV", help="What git declares for this environment, canary too."),
    ] = None,
    digest: Annotated[
        str | None, typer.Option(metavar="sha256:…", help="Only if the version is just this.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Private key; by default what ATELIER_SIGNING_KEY holds"),
    ] = None,
    keyless: Annotated[
        bool, typer.Option("--keyless", help="By this CI job's identity, through Sigstore.")
    ] = False,
) -> Answer:
    """Sign a version's package, and put the signature beside it in the registry.

    Either VERSION, or --environment for what a review agreed to: then the digests in git decide,
    and a registry that has other packages there gets nothing signed. The key is elliptic-curve, as
    PEM, its password, where it has one, in ATELIER_SIGNING_PASSWORD. What it has signed already is
    left as it is, and so are the signatures of others.
    """
    from atelier.adapter import signature
    from commands.adapter_references import open_registry

    if (version is None) == (environment is None) or (environment and digest):
        raise BadInput("give VERSION, perhaps with --digest, or --environment alone")
    pem = b"" if keyless else _pem(key)
    password = os.environ.get("ATELIER_SIGNING_PASSWORD") or None
    mine = None if keyless else signature.key_of(pem, password)
    wanted = _declared(name, environment) if environment else {str(version): digest}
    registry = open_registry(Home.find())
    infos = [_exactly(registry, name, one, pinned) for one, pinned in wanted.items()]

    def make(package: "Package") -> bytes:
        return signature.sign(package, pem, password) if mine else signature.sign_keyless(package)

    signed = [_sign(registry, info, mine, make) for info in infos]
    who = mine.label if mine else "this job, keyless"
    lines = [
        f"{name}@{one['version']} is signed by {who}{'' if one['signed'] else ' already'}"
        for one in signed
    ]
    key_data = {"adapter": name, "key": mine.fingerprint if mine else None}
    return Answer("\n".join(lines), {**key_data, "versions": signed})


def _declared(name: str, environment: str) -> dict[str, str | None]:
    """The digests by version of all that git lets serve."""
    from atelier.data.declaration import Declarations

    declaration = Declarations(Path(), environment).get(name)
    return {str(pin.version): pin.digest for pin in declaration.served}


def _exactly(registry: "Registry", name: str, version: str, digest: str | None) -> "VersionInfo":
    info = registry.version(name, version)
    if digest not in (None, info.digest):
        raise Refused(
            f"{name}@{info.version}: is to be {digest}, but the registry has {info.digest} there; "
            "nothing is signed"
        )
    return info


def _sign(
    registry: "Registry",
    info: "VersionInfo",
    key: "PublicKey | None",
    make: "Callable[[Package], bytes]",
) -> dict[str, object]:
    """Sign one version, unless the key has done so."""
    from atelier.adapter.signature import file_of
    from commands.adapter_references import fetched

    package = fetched(registry, Home.find(), info.name, info.version)
    if package.digest != info.digest:
        raise Refused(
            f"{info.name}@{info.version}: the registry changed it just now; sign it again"
        )
    told = {"version": info.version, "digest": info.digest}
    before = registry.attestation(info.name, info.version, file_of(key))
    if key and before is not None and _by(key, package, before):
        return {**told, "signed": False}
    registry.attest(info.name, info.version, file_of(key), make(package))
    return {**told, "signed": True}


def _pem(key: Path | None) -> bytes:
    """The private key, from where it is said to be."""
    given = os.environ.get("ATELIER_SIGNING_KEY")
    if key is None and not given:
        raise BadInput("nothing to sign with: give --key FILE, or the PEM in ATELIER_SIGNING_KEY")
    if key is None:
        return str(given).encode()
    try:
        return key.read_bytes()
    except OSError as error:
        raise BadInput(f"--key {key}: cannot be read ({error.strerror})") from error


def _by(key: "PublicKey", package: "Package", made: bytes) -> bool:
    from atelier.adapter.signature import verify

    try:
        return bool(verify(package, [made], [key]))
    except SignatureRejected:
        return False
