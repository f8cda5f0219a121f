"""`atelier sign`: a version of an adapter gets a signature that agents and people can check."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.errors import BadInput, SignatureRejected
from atelier.home import Home
from commands.verb import Answer

if TYPE_CHECKING:
    from atelier.adapter.package import Package
    from atelier.adapter.signers import Key


def sign(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The adapter.")],
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="Its number in the registry, or an alias.")
    ],
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Private key; by default what ATELIER_SIGNING_KEY holds"),
    ] = None,
    keyless: Annotated[
        bool, typer.Option("--keyless", help="By this CI job's identity, through Sigstore.")
    ] = False,
) -> Answer:
    """Sign a version's package, and put the signature beside it in the registry.

    The key is elliptic-curve, as PEM, its password, where it has one, in ATELIER_SIGNING_PASSWORD.
    What it has signed already is left as it is; another's signature is replaced.
    """
    from atelier.adapter import signature
    from commands.sources import fetched, open_registry

    pem = b"" if keyless else _pem(key)
    password = os.environ.get("ATELIER_SIGNING_PASSWORD") or None
    mine = None if keyless else signature.key_of(pem, password)
    home = Home.find()
    registry = open_registry(home)
    info = registry.version(name, version)
    package = fetched(registry, home, name, info.version)
    told = {
        "adapter": name,
        "version": info.version,
        "digest": info.digest,
        "key": mine.fingerprint if mine else None,
    }
    text = f"{name}@{info.version} is signed by {mine.label if mine else 'this job, keyless'}"
    before = registry.attestation(name, info.version, signature.FILE)
    if mine and _by(mine, package, before):
        return Answer(f"{text} already", {**told, "signed": False})
    made = signature.sign(package, pem, password) if mine else signature.sign_keyless(package)
    registry.attest(name, info.version, signature.FILE, made)
    return Answer(text, {**told, "signed": True})


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


def _by(key: "Key", package: "Package", made: bytes | None) -> bool:
    from atelier.adapter.signature import verify

    try:
        return bool(verify(package, made, [key]))
    except SignatureRejected:
        return False
