"""`atelier sign`: sign a version of an adapter, so that agents and people can verify it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.errors import BadInput, Refused, SignatureRejected
from atelier.home import Home
from commands.settings import CommandSettings
from commands.verb import Answer

if TYPE_CHECKING:
    from atelier.adapter.package import Package
    from atelier.adapter.signers import PublicKey
    from atelier.stores.registry import Registry, VersionInfo


def sign(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The adapter.")],
    version: Annotated[
        str | None,
        typer.Argument(metavar="VERSION", help="Version number, or an alias."),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(metavar="ENV", help="Sign the versions that git declares for it."),
    ] = None,
    digest: Annotated[
        str | None, typer.Option(metavar="sha256:…", help="Required digest of the version.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Private key. Default: the PEM in ATELIER_SIGNING_KEY."),
    ] = None,
    keyless: Annotated[
        bool, typer.Option("--keyless", help="Sign with this CI job's identity, through Sigstore.")
    ] = False,
) -> Answer:
    """Sign a version's package and store the signature beside it in the registry.

    Give VERSION, or --environment to sign the declared version and its canary, as the review
    approved them. In that case the digests in git decide: if the registry has other packages for
    these versions, nothing is signed. The key is an elliptic-curve key in PEM form. Put its
    password, if it has one, into ATELIER_SIGNING_PASSWORD. Existing signatures are kept.
    """
    from atelier.adapter import signature
    from commands.adapter_references import open_registry

    if (version is None) == (environment is None) or (environment and digest):
        raise BadInput("give VERSION (with or without --digest), or only --environment")
    settings = CommandSettings.read()
    pem, password = b"" if keyless else _pem(key, settings), settings.signing_password
    mine = None if keyless else signature.key_of(pem, password)
    wanted = _declared(name, environment) if environment else {str(version): digest}
    registry = open_registry(Home.find())
    infos = [_exactly(registry, name, one, pinned) for one, pinned in wanted.items()]

    def make(package: "Package") -> bytes:
        return signature.sign(package, pem, password) if mine else signature.sign_keyless(package)

    signed = [_sign(registry, info, mine, make) for info in infos]
    who = mine.label if mine else "this job, keyless"
    lines = [
        f"{name}@{one['version']} is {'' if one['signed'] else 'already '}signed by {who}"
        for one in signed
    ]
    key_data = {"adapter": name, "key": mine.fingerprint if mine else None}
    return Answer("\n".join(lines), {**key_data, "versions": signed})


def _declared(name: str, environment: str) -> dict[str, str | None]:
    """The digests, by version, that git declares."""
    from atelier.data.declaration import Declarations

    declaration = Declarations(Path(), environment).get(name)
    return {str(pin.version): pin.digest for pin in declaration.served}


def _exactly(registry: "Registry", name: str, version: str, digest: str | None) -> "VersionInfo":
    info = registry.version(name, version)
    if digest not in (None, info.digest):
        raise Refused(
            f"{name}@{info.version}: should be {digest}, but the registry has {info.digest}; "
            "nothing is signed"
        )
    return info


def _sign(
    registry: "Registry",
    info: "VersionInfo",
    key: "PublicKey | None",
    make: "Callable[[Package], bytes]",
) -> dict[str, object]:
    """Sign one version, unless this key has already signed it."""
    from atelier.adapter.signature import file_of
    from commands.adapter_references import fetched

    package = fetched(registry, Home.find(), info)
    told = {"version": info.version, "digest": info.digest}
    before = registry.attestation(info, file_of(key))
    if key and before is not None and _by(key, package, before):
        return {**told, "signed": False}
    registry.attest(info, file_of(key), make(package))
    return {**told, "signed": True}


def _pem(key: Path | None, settings: CommandSettings) -> bytes:
    """The private key, from --key or ATELIER_SIGNING_KEY."""
    if key is None and not settings.signing_key:
        raise BadInput("no signing key: give --key FILE, or put the PEM into ATELIER_SIGNING_KEY")
    if key is None:
        return str(settings.signing_key).encode()
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
