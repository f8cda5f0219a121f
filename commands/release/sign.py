"""`atelier sign`: sign a version of an adapter."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.errors import BadInput
from atelier.home import Home
from commands.command import Answer

if TYPE_CHECKING:
    from commands.settings import CommandSettings


def sign(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the adapter.")],
    version: Annotated[
        str | None,
        typer.Argument(metavar="VERSION", help="Version number or alias."),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(metavar="ENV", help="Sign the versions declared in git for this environment."),
    ] = None,
    digest: Annotated[
        str | None, typer.Option(metavar="sha256:…", help="Fail if the version has another digest.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Private key. Default: the PEM in ATELIER_SIGNING_KEY."),
    ] = None,
    keyless: Annotated[
        bool,
        typer.Option("--keyless", help="Sign with the identity of this CI job, through Sigstore."),
    ] = False,
) -> Answer:
    """Sign a version and store the signature in the registry.

    Give VERSION, or --environment to sign the declared version and its canary. With --environment,
    nothing is signed if the digest of a package in the registry differs from the declaration. The
    key is an elliptic-curve private key in PEM form. If it has a password, set
    ATELIER_SIGNING_PASSWORD. Existing signatures are kept.
    """
    from atelier.data.declaration import Declarations
    from atelier.stores.registry import Registry
    from pipelines.delivery.signing import SigningKey, declared_versions, sign_versions

    if (version is None) == (environment is None) or (environment and digest):
        raise BadInput(
            "VERSION, --environment: exactly one is required; give VERSION, optionally with "
            "--digest, or --environment without --digest"
        )
    from commands.settings import CommandSettings

    settings = CommandSettings.read()
    signing_key = None if keyless else SigningKey(_pem(key, settings), settings.signing_password)
    digests: dict[str, str | None] = {str(version): digest}
    if environment:
        digests = declared_versions(Declarations(Path(), environment), name)
    home = Home.find()
    signed_versions = sign_versions(Registry(home.tracking_uri), home, name, digests, signing_key)
    public = signing_key.public if signing_key else None
    signer = public.label if public else "this job (keyless)"
    lines = [
        f"{name}@{version.version} is {'' if version.signed else 'already '}signed by {signer}"
        for version in signed_versions
    ]
    data = {
        "adapter": name,
        "key": public.fingerprint if public else None,
        "versions": [asdict(version) for version in signed_versions],
    }
    return Answer("\n".join(lines), data)


def _pem(key: Path | None, settings: "CommandSettings") -> bytes:
    """Return the private key in PEM form, from --key or ATELIER_SIGNING_KEY."""
    if key is None and not settings.signing_key:
        raise BadInput(
            "--key, ATELIER_SIGNING_KEY: not set; give --key FILE, or set ATELIER_SIGNING_KEY to "
            "the key as PEM text"
        )
    if key is None:
        return str(settings.signing_key).encode()
    try:
        return key.read_bytes()
    except OSError as error:
        raise BadInput(
            f"--key {key}: cannot be read ({error.strerror}); give a readable PEM file"
        ) from error
