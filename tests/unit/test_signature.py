"""Signatures of packages: who signed is known, and whatever else there is gets refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.adapter.package import ADAPTER, MANIFEST, Package
from atelier.adapter.signature import (
    claim,
    file_of,
    is_file,
    key_of,
    sign,
    sign_keyless,
    verify,
)
from atelier.adapter.signature_policy import SignaturePolicy
from atelier.adapter.signers import PublicKey, SignerIdentity, signers_in
from atelier.errors import BadInput, PolicyError, SignatureRejected, Unavailable
from tests.signing import package, private_key, signer

DOCS = Path(__file__).parents[2] / "docs" / "signing.md"
KEY = private_key()
CI = signer(KEY)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Package, Package]:
    """Two packages of one adapter; read only."""
    folder = tmp_path_factory.mktemp("packages")
    return package(folder / "1", seed=1), package(folder / "2", seed=2)


@pytest.fixture(scope="module")
def signed(two: tuple[Package, Package]) -> bytes:
    """The first one's signature."""
    return sign(two[0], KEY)


def refused(made: Package, signature: bytes, *signers: PublicKey) -> str:
    return none_good(made, [signature], *signers)


def none_good(made: Package, signatures: list[bytes], *signers: PublicKey) -> str:
    with pytest.raises(SignatureRejected) as caught:
        verify(made, signatures, signers)
    assert str(caught.value).startswith("thor-cat: ")
    return str(caught.value)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_who_signed_is_known(two: tuple[Package, Package], curve: ec.EllipticCurve) -> None:
    pem = private_key(curve)
    mine = signer(pem, "mine")
    assert verify(two[0], [sign(two[0], pem)], [CI, mine]).signer == mine


def test_a_key_with_a_password(two: tuple[Package, Package]) -> None:
    pem = private_key(password="hé")
    key = key_of(pem, "hé")
    assert verify(two[0], [sign(two[0], pem, "hé")], [key]).signer == key
    for password in (None, "wrong"):
        with pytest.raises(BadInput, match="ATELIER_SIGNING_PASSWORD"):
            sign(two[0], pem, password)


def test_the_digest_of_a_signed_package_is_what_it_was(
    two: tuple[Package, Package], signed: bytes
) -> None:
    assert claim(signed).files == {MANIFEST, ADAPTER}
    assert Package.open(two[0].path).digest == two[0].digest


def test_the_library_s_own_command_verifies_it(
    two: tuple[Package, Package], signed: bytes, tmp_path: Path
) -> None:
    (tmp_path / "model.sig").write_bytes(signed)
    (tmp_path / "ci.pem").write_bytes(CI.pem)
    files = ("--signature", tmp_path / "model.sig", "--public_key", tmp_path / "ci.pem")

    def run(path: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "model_signing", "verify", "key", path, *files]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    good, bad = run(two[0].path), run(two[1].path)
    assert (good.returncode, bad.returncode) == (0, 1), (good.stderr, bad.stderr)


def test_not_signed(two: tuple[Package, Package]) -> None:
    assert "is not signed; sign the version with `atelier sign`" in none_good(two[0], [], CI)


def test_signed_by_another_key(two: tuple[Package, Package], signed: bytes) -> None:
    other = signer(private_key(), "other")
    told = refused(two[0], signed, other)
    assert (
        f"signed by key {CI.fingerprint[:12]}…, which is not trusted; trusted are {other.label}"
        in told
    )
    assert "trusted are no signers" in refused(two[0], signed)


def test_another_key_that_names_itself_as_the_trusted_one(two: tuple[Package, Package]) -> None:
    forged = json.loads(sign(two[0], private_key()))
    forged["verificationMaterial"]["publicKey"]["hint"] = CI.fingerprint
    assert "the signature is invalid: ci (" in refused(two[0], json.dumps(forged).encode(), CI)


def test_of_several_signatures_one_by_a_trusted_key_will_do(
    two: tuple[Package, Package], signed: bytes
) -> None:
    mine, theirs = private_key(), private_key()
    staging = sign(two[0], mine)
    for signatures in ([b"damaged", signed, staging], [staging, b"damaged", signed]):
        assert verify(two[0], signatures, [CI]).signature == signed
        assert verify(two[0], signatures, [signer(mine, "staging")]).signature == staging
    told = none_good(two[0], [signed, b"damaged"], signer(theirs, "other"))
    assert "signed by key" in told and "cannot be read" in told
    assert SignaturePolicy("enforce", (CI,)).check(two[0], [staging, signed]).signature == signed
    assert SignaturePolicy("warn", (CI,)).check(two[0], [staging]).signature == staging
    assert file_of(CI) == f"model-{CI.fingerprint[:12]}.sig" != file_of(signer(mine))
    assert is_file(file_of(CI)) and is_file(file_of(None)) and not is_file("evaluation.json")


def test_altered_after_signing(two: tuple[Package, Package], signed: bytes) -> None:
    # whole in itself, with a digest of its own: only the signature can tell
    assert "the package was altered after signing" in refused(two[1], signed, CI)


def test_a_statement_altered_after_signing(two: tuple[Package, Package], signed: bytes) -> None:
    mixed = json.loads(signed)
    other = json.loads(sign(two[1], private_key()))
    mixed["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"]
    assert "the signature is invalid" in refused(two[1], json.dumps(mixed).encode(), CI)


def test_a_signature_that_leaves_a_file_out(two: tuple[Package, Package], tmp_path: Path) -> None:
    """The library takes the list of ignored files from the signature itself."""
    from model_signing import hashing, signing

    (tmp_path / "key").write_bytes(KEY)
    config = signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key")
    partial = hashing.Config().set_ignored_paths(paths=[two[0].path / ADAPTER])
    config.set_hashing_config(partial).sign(two[0].path, tmp_path / "model.sig")
    made = (tmp_path / "model.sig").read_bytes()
    assert claim(made).files == {MANIFEST}
    assert "covers manifest.json, not the package's files" in refused(two[0], made, CI)


@settings(max_examples=40)
@given(share=st.floats(0, 1, exclude_max=True))
def test_cut_short_at_any_place(two: tuple[Package, Package], signed: bytes, share: float) -> None:
    assert "cannot be read" in refused(two[0], signed[: int(share * len(signed))], CI)


@settings(max_examples=60)
@given(place=st.integers(0), byte=st.integers(0, 255))
def test_no_other_byte_makes_it_say_another_thing(
    two: tuple[Package, Package], signed: bytes, place: int, byte: int
) -> None:
    """Whatever is changed, it is refused or still says what it said."""
    place %= len(signed)
    changed = signed[:place] + bytes([byte]) + signed[place + 1 :]
    refused(two[1], changed, CI)
    try:
        assert verify(two[0], [changed], [CI]).signer == CI
    except SignatureRejected as error:
        assert changed != signed, error


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_signature(two: tuple[Package, Package], text: bytes) -> None:
    assert "cannot be read" in refused(two[0], text, CI)


def test_keys_of_other_kinds(two: tuple[Package, Package], tmp_path: Path) -> None:
    made = rsa.generate_private_key(65537, 2048)
    pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(BadInput, match="is not supported; make a key with `openssl"):
        sign(two[0], pem)
    with pytest.raises(BadInput, match="cannot be read"):
        sign(two[0], CI.pem)  # the public half
    with pytest.raises(BadInput, match="the kind of the signing key is not supported"):
        sign(two[0], private_key(ec.SECP256K1()))


def test_signers_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "ci.pem").write_bytes(CI.pem.replace(b"\n", b"\r\n"))
    (tmp_path / "actions.yaml").write_text("identity: me@example.org\nissuer: https://idp\n")
    (tmp_path / "..data").mkdir()  # as Kubernetes mounts a ConfigMap
    assert signers_in(tmp_path) == (SignerIdentity("actions", "me@example.org", "https://idp"), CI)
    for name, text, told in (
        ("private.pem", KEY.decode(), "is not a public key"),
        ("half.yaml", "identity: me@example.org\n", "half.yaml:1: issuer: missing"),
        ("note.txt", "", "name it NAME.pem"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(PolicyError, match=re.escape(told)):
            signers_in(tmp_path)
        (tmp_path / name).unlink()
    with pytest.raises(PolicyError, match="nowhere"):
        signers_in(tmp_path / "nowhere")


def test_a_signature_policy(two: tuple[Package, Package], signed: bytes, tmp_path: Path) -> None:
    off, warn, enforce = (
        SignaturePolicy(),
        SignaturePolicy("warn", (CI,)),
        SignaturePolicy("enforce", (CI,)),
    )
    assert [one.check(two[0], [signed]).warning for one in (off, warn, enforce)] == [None] * 3
    assert off.check(two[1], [signed]).warning is None
    assert "altered after signing (served anyway" in str(warn.check(two[1], [signed]).warning)
    with pytest.raises(SignatureRejected, match="altered"):
        enforce.check(two[1], [signed])
    (tmp_path / "ci.pem").write_bytes(CI.pem)
    said = {"ATELIER_SIGNATURES": "enforce", "ATELIER_SIGNERS": str(tmp_path)}
    assert SignaturePolicy.read(said) == enforce and SignaturePolicy.read({}) == off
    for wrong, told in (
        ({"ATELIER_SIGNATURES": "on"}, "must be one of off, warn, enforce"),
        ({"ATELIER_SIGNATURES": "enforce"}, "has no signer"),
    ):
        with pytest.raises(BadInput, match=told):
            SignaturePolicy.read(wrong)


def test_a_platform_says_it_to_promotions_too(tmp_path: Path) -> None:
    file = tmp_path / "platform.yaml"
    file.write_text("environment: trial\nserving: {base: x}\n")
    assert SignaturePolicy.of_platform(file) == SignaturePolicy()
    signatures = {"policy": "enforce", "signers": {"ci.pem": CI.pem.decode()}}
    file.write_text(yaml.safe_dump({"serving": {"signatures": signatures}}))
    assert SignaturePolicy.of_platform(file) == SignaturePolicy("enforce", (CI,))
    file.write_text("serving:\n  signatures: {policy: enforced}\n")
    with pytest.raises(PolicyError, match=r"platform.yaml:2: serving.signatures.policy"):
        SignaturePolicy.of_platform(file)


def test_the_keys_of_the_docs_sign(two: tuple[Package, Package], tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (commands,) = [one for one in blocks if "openssl" in one]
    subprocess.run(["bash", "-ec", commands], cwd=tmp_path, check=True, capture_output=True)
    made = sign(two[0], (tmp_path / "signing.key").read_bytes())
    (only,) = signers_in(tmp_path / "signers")
    assert verify(two[0], [made], [only]).signer.name == "ci"
    assert oct((tmp_path / "signing.key").stat().st_mode)[-3:] == "600"


@pytest.mark.skipif(
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN" not in os.environ,
    reason="this process has no OpenID identity: needs a GitHub job with id-token and Sigstore",
)
def test_keyless(two: tuple[Package, Package]) -> None:
    workflow = os.environ["GITHUB_WORKFLOW_REF"]
    issuer = "https://token.actions.githubusercontent.com"
    me = SignerIdentity("me", f"https://github.com/{workflow}", issuer)
    other = SignerIdentity("other", "https://github.com/nobody/nothing", issuer)
    made = sign_keyless(two[0])
    assert verify(two[0], [made], [other, me]).signer == me
    assert "the signature is invalid" in refused(two[0], made, other)  # type: ignore[arg-type]
    assert "trusted are ci" in refused(two[0], made, CI)


def test_roots_that_cannot_be_had_are_no_verdict(two: tuple[Package, Package]) -> None:
    keyless = json.loads(sign(two[0], KEY))
    keyless["verificationMaterial"] = {"certificate": {"rawBytes": ""}}
    made = json.dumps(keyless).encode()
    me = SignerIdentity("me", "me@example.org", "https://idp", trust=b"{}")
    with pytest.raises(Unavailable, match=r"me \(me@example.org\): cannot get Sigstore's roots"):
        SignaturePolicy("enforce", (me,)).check(two[0], [made])
    assert "cannot get Sigstore's roots" in str(
        SignaturePolicy("warn", (me,)).check(two[0], [made]).warning
    )
    signed = sign(two[0], KEY)  # whoever else signed, the key's is good without them
    assert verify(two[0], [made, signed], [me, CI]).signature == signed


def test_keyless_where_nobody_vouches(
    two: tuple[Package, Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "SIGSTORE_ID_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match="id-token: write"):
        sign_keyless(two[0])
