"""`atelier sign` and `atelier trace` on real MLflow: signed, signed again, by whom, and checked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from atelier.adapter.package import ADAPTER, Package
from atelier.adapter.signature import file_of, verify
from atelier.adapter.signature_policy import SignaturePolicy
from atelier.data.declaration import ENVIRONMENTS, Declaration, Declarations
from atelier.data.release import Canary
from atelier.errors import Refused
from atelier.home import Home
from atelier.stores.registry import Registry, VersionInfo
from commands.main import app
from pipelines.delivery.approval import signature_warning
from services.gateway.png import encode_png
from tests.signing import BASE, package, private_key, signer

KEY, OTHER = private_key(), private_key()
CI = signer(KEY)
COMMIT = "c" * 40


def atelier(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def answer(*arguments: object, code: int = 0) -> dict[str, Any]:
    result = atelier(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.fixture
def registry() -> Registry:
    """Of the home that the commands find."""
    return Registry(Home.find().tracking_uri)


def signatures(registry: Registry, version: int) -> tuple[bytes, ...]:
    return registry.signatures(registry.version("thor-cat", version))


@pytest.fixture
def made(registry: Registry, tmp_path: Path) -> Package:
    """Version 1 of thor-cat."""
    one = package(tmp_path / "1", seed=1, git_commit=COMMIT, dataset="sha256:" + "d" * 64)
    registry.register(one, run_id=None)
    return one


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "signing.key"
    file.write_bytes(KEY)
    return file


def test_each_key_signs_once_and_no_other_s_signature_goes(
    registry: Registry, made: Package, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = answer("sign", "thor-cat", "candidate", "--key", key)
    assert told == {
        "adapter": "thor-cat",
        "key": CI.fingerprint,
        "versions": [{"version": 1, "digest": made.digest, "signed": True}],
    }
    (first,) = signatures(registry, 1)
    assert verify(made, [first], [CI]).signer == CI
    assert answer("sign", "thor-cat", 1, "--key", key)["versions"][0]["signed"] is False
    assert signatures(registry, 1) == (first,)
    monkeypatch.setenv("ATELIER_SIGNING_KEY", OTHER.decode())  # as CI passes a secret
    assert answer("sign", "thor-cat", 1)["versions"][0]["signed"] is True
    both = signatures(registry, 1)
    assert {verify(made, both, [one]).signer for one in (CI, signer(OTHER))} == {CI, signer(OTHER)}
    registry.attest(registry.version("thor-cat", 1), file_of(signer(OTHER)), b"damaged")
    assert verify(made, signatures(registry, 1), [CI])
    assert "is signed by this key" in atelier("sign", "thor-cat", 1).stdout
    assert verify(made, signatures(registry, 1), [signer(OTHER)])
    again = registry.fetch(registry.version("thor-cat", 1), made.path.with_name("again"))
    assert again.digest == made.digest


def test_a_version_is_looked_up_once_to_be_signed_and_once_to_be_traced(
    registry: Registry,
    made: Package,
    key: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_up: list[str] = []
    versions = Registry.versions

    def counting(self: Registry, name: str) -> tuple[VersionInfo, ...]:
        looked_up.append(name)
        return versions(self, name)

    monkeypatch.setattr(Registry, "versions", counting)
    assert answer("sign", "thor-cat", 1, "--key", key)["versions"][0]["signed"] is True
    assert looked_up == ["thor-cat"]
    looked_up.clear()
    signers = tmp_path / "signers"
    signers.mkdir()
    (signers / "ci.pem").write_bytes(CI.pem)
    file = picture(tmp_path, digest=made.digest)
    (one,) = answer("trace", file, "--signers", signers)["adapters"]
    assert one["signature"]["state"] == "good"
    assert looked_up == ["thor-cat"]


def test_what_git_declares_is_signed_and_nothing_else(
    registry: Registry,
    made: Package,
    key: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = package(tmp_path / "2", seed=2)
    registry.register(second, run_id=None)
    (tmp_path / "git" / ENVIRONMENTS / "production").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "git")
    declarations = Declarations(Path(), "production")
    declared = Declaration.model_validate(
        {
            "adapter": "thor-cat",
            "version": 1,
            "digest": made.digest,
            "base": BASE,
            "canary": {"version": 2, "digest": "sha256:" + "f" * 64, "percent": 10},
            "reason": "promoted",
        }
    )
    declarations.put(declared)
    sign = ("sign", "thor-cat", "--environment", "production", "--key", key)
    result = atelier(*sign)
    assert result.exit_code == 1 and f"the registry has {second.digest}" in result.stderr
    assert signatures(registry, 1) == signatures(registry, 2) == ()
    canary = Canary(version=2, digest=second.digest, percent=10)
    declarations.put(declared.model_copy(update={"canary": canary}))
    told = answer(*sign)["versions"]
    assert [(one["version"], one["signed"]) for one in told] == [(1, True), (2, True)]
    assert verify(second, signatures(registry, 2), [CI])
    other = ("--digest", second.digest, "--key", key)
    assert atelier("sign", "thor-cat", 1, *other).exit_code == 1
    assert answer("sign", "thor-cat", 2, *other)["versions"][0]["signed"] is False
    for wrong in ((), (1, "--environment", "production"), ("--digest", made.digest)):
        result = atelier("sign", "thor-cat", *wrong, "--key", key)
        assert result.exit_code == 2 and "or --environment without --digest" in result.stderr


def test_what_cannot_be_signed(registry: Registry, made: Package, key: Path) -> None:
    for arguments, told in (
        (["1"], "give --key FILE, or set ATELIER_SIGNING_KEY to the key as PEM text"),
        (["1", "--key", made.path / ADAPTER], "the signing key cannot be read"),
        (["1", "--key", made.path / "nowhere"], "nowhere: cannot be read"),
        (["2", "--key", key], "has no version 2"),
        (["1", "--keyless"], "keyless: this process has no OpenID identity"),
    ):
        result = atelier("sign", "thor-cat", *arguments)
        assert (result.exit_code, told in result.stderr) == (2, True), result.stderr
    assert signatures(registry, 1) == ()


def test_a_package_altered_in_the_registry_is_not_signed(
    registry: Registry, made: Package, key: Path
) -> None:
    stored = next(Home.find().root.rglob(f"artifacts/package/{ADAPTER}"))
    stored.write_bytes(stored.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    result = atelier("sign", "thor-cat", 1, "--key", key)
    assert result.exit_code == 2 and "changed or damaged" in result.stderr
    assert signatures(registry, 1) == ()


def test_a_promotion_asks_what_the_agents_will_ask(
    registry: Registry, made: Package, key: Path
) -> None:
    info = registry.version("thor-cat", 1)
    enforce = SignaturePolicy("enforce", (CI,))
    assert signature_warning(registry, info, SignaturePolicy()) is None
    assert "thor-cat: is not signed" in str(
        signature_warning(registry, info, SignaturePolicy("warn"))
    )
    with pytest.raises(Refused, match=r"thor-cat@1 is refused by .*: is not signed"):
        signature_warning(registry, info, enforce)
    answer("sign", "thor-cat", 1, "--key", key)
    assert signature_warning(registry, info, enforce) is None
    with pytest.raises(Refused, match="signed by key"):
        signature_warning(registry, info, SignaturePolicy("enforce", (signer(OTHER),)))


def picture(folder: Path, **adapter: object) -> Path:
    """As the gateway writes them."""
    told = {"prompt": "a cat", "seed": 7, "backend": "torch", "base": "sha256:" + "b" * 64}
    used = {"name": "thor-cat", "version": 1, "weight": 1.0, **adapter}
    file = folder / "cat.png"
    file.write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8), {**told, "adapters": [used]}))
    return file


def test_a_picture_s_whole_lineage(
    registry: Registry, made: Package, key: Path, tmp_path: Path
) -> None:
    file = picture(tmp_path, digest=made.digest)
    told = answer("trace", file)
    (one,) = told["adapters"]
    assert (told["seed"], one["registry"], one["signature"]["state"]) == (7, "known", "unsigned")
    info = registry.version("thor-cat", 1)
    assert one["lineage"] == {
        "run": info.run_id,
        "dataset": "sha256:" + "d" * 64,
        "recipe": None,
        "git_commit": COMMIT,
        "registered": info.created.isoformat(timespec="seconds"),
    }
    answer("sign", "thor-cat", 1, "--key", key)
    said = {"state": "unchecked", "keys": [CI.fingerprint]}
    assert answer("trace", file)["adapters"][0]["signature"] == said
    signers = tmp_path / "signers"
    signers.mkdir()
    (signers / "ci.pem").write_bytes(CI.pem)
    (checked,) = answer("trace", file, "--signers", signers)["adapters"]
    assert checked["signature"] == {"state": "good", "keys": [CI.fingerprint], "signer": "ci"}
    text = atelier("trace", file, "--signers", signers).stdout
    for part in (info.run_id, COMMIT, f"by ci, key {CI.fingerprint[:12]}…: good", "thor-cat@1"):
        assert part in text
    (signers / "old.pem").write_bytes(signer(OTHER).pem)
    (signers / "ci.pem").unlink()
    (refused,) = answer("trace", file, "--signers", signers, code=1)["adapters"]
    assert refused["signature"]["state"] == "refused"
    assert "trusted are old (" in refused["signature"]["why"]


def test_a_picture_of_another_digest_than_the_registry_has(made: Package, tmp_path: Path) -> None:
    file = picture(tmp_path, digest="sha256:" + "e" * 64)
    (one,) = answer("trace", file, code=1)["adapters"]
    assert one["registry"] == "another digest" and made.digest in one["why"]
    stored = next(Home.find().root.rglob("artifacts/package/manifest.json"))
    stored.write_text(stored.read_text().replace(COMMIT, "f" * 40))  # not to be passed off
    (forged,) = answer("trace", picture(tmp_path, digest=made.digest), code=1)["adapters"]
    assert forged["registry"] == "damaged" and "lineage" not in forged
    (gone,) = answer("trace", picture(tmp_path, version=9, digest="sha256:0"), code=1)["adapters"]
    assert gone["registry"] == "unknown" and "no version 9" in gone["why"]
