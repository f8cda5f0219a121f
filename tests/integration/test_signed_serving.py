"""What no trusted key has signed never reaches a slot of a served replica; signed, it serves.

`atelier serve` as a user starts it: real Triton and engine, real agent, real MLflow.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from atelier.adapter.package import Package
from atelier.adapter.signature import file_of, sign
from atelier.contract.replica import Replica
from atelier.data.names import hex_of
from atelier.data.release import Pin
from atelier.files import write_atomic
from commands.main import app
from tests.integration.stack import PATIENCE, ServedStack
from tests.signing import private_key, signer
from tests.tiny import tiny_adapter

NAME = "loki"
KEY = private_key()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home's folder, with the signers that are trusted there."""
    folder = tmp_path_factory.mktemp("signed")
    write_atomic(folder / "signers" / "ci.pem", signer(KEY).pem)
    return folder


def serving(root: Path, base: Path, policy: str) -> ServedStack:
    env = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "ATELIER_SIGNATURES": policy,
        "ATELIER_SIGNERS": str(root / "signers"),
    }
    return ServedStack(root, base, "--no-gateway", env=env)


@pytest.fixture(scope="module")
def enforced(root: Path, tiny_model: Path) -> Iterator[ServedStack]:
    served = serving(root, tiny_model, "enforce")
    served.start()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def packages(tiny_model: Path, root: Path) -> list[Package]:
    """One for each case."""
    return [
        Package.open(tiny_adapter(tiny_model, root / str(seed), name=NAME, seed=seed))
        for seed in range(5)
    ]


def in_engine(stack: ServedStack, pin: Pin) -> bool:
    """Whether the engine itself speaks of a package, or was asked for it, or could find it."""
    said = Replica.model_validate_json(stack.home.loaded.read_bytes())
    wanted = json.loads(stack.home.wanted.read_text())["adapters"]
    return (
        said.holds(NAME, pin.digest) is not None
        or any(one["digest"] == pin.digest for one in wanted)
        or (stack.home.packages / hex_of(pin.digest)).exists()
    )


def test_enforced_only_what_is_signed_reaches_a_slot(
    enforced: ServedStack,
    packages: list[Package],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack = enforced
    good, unsigned, foreign, altered, _ = packages
    pins = [stack.register(one.path) for one in packages[:4]]
    signatures = {
        pins[0]: sign(good, KEY),
        pins[2]: sign(foreign, private_key()),
        pins[3]: sign(good, KEY),  # the weights are others by now, with a digest that fits them
    }
    for pin, signature in signatures.items():
        stack.registry.attest(
            stack.registry.version(NAME, pin.version), file_of(signer(KEY)), signature
        )
    stack.release(NAME, pins[0])
    cases = (
        (pins[1], f"{NAME}@2: is not signed"),
        (pins[2], "signed by key"),
        (pins[3], "the package was altered after signing"),
    )
    for pin, told in cases:
        stack.release(NAME, pin, wait=False)
        seen = False

        def failed(pin: Pin = pin) -> bool:
            nonlocal seen
            seen = seen or in_engine(stack, pin)
            held = stack.report().holds(NAME, pin.digest)
            return held is not None and held.state == "failed"

        stack.wait_for(failed, f"{NAME}@{pin.version} to be refused", PATIENCE)
        held = stack.report().holds(NAME, pin.digest)
        assert held is not None and told in str(held.error) and not seen
        assert stack.serves(NAME, pins[0])  # the last good one goes on
        assert stack.http(prompt="a cat", steps=1, adapters=[{"name": NAME}]).digest == good.digest
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.tracking_uri)
    monkeypatch.setenv("ATELIER_SIGNING_KEY", KEY.decode())
    result = CliRunner().invoke(app, ["sign", NAME, "4"])
    assert result.exit_code == 0, result.output
    stack.release(NAME, pins[3])  # within a minute, nothing but the signature being new
    assert stack.http(prompt="a cat", steps=1, adapters=[{"name": NAME}]).digest == altered.digest
    assert not in_engine(stack, pins[1]) and unsigned.digest == pins[1].digest


def test_warned_of_it_serves(
    enforced: ServedStack, packages: list[Package], root: Path, tiny_model: Path
) -> None:
    """The same home again, asking for less."""
    assert enforced.stop() == 0, enforced.said()
    stack = serving(root, tiny_model, "warn")
    stack.start()
    try:
        pin = stack.register(packages[4].path)
        stack.release(NAME, pin)
        drawn = stack.http(prompt="a cat", steps=1, adapters=[{"name": NAME}])
        assert drawn.digest == pin.digest
        stack.wait_for(lambda: stack.report().error, "the report to tell")
        assert f"{NAME}: is not signed" in str(stack.report().error)
    finally:
        stack.stop()
