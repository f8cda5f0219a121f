"""Promote, roll back and retire return when it is so: the very next call meets what they did."""

import urllib.error
from pathlib import Path

import pytest

from atelier.adapter.package import Package
from atelier.data.release import Pin
from pipelines.delivery.local.promotion import promote, retire, rollback
from pipelines.delivery.smoke import local_smoke
from services.gateway.keys import KeyStore
from tests.integration.stack import Picture, ServedStack
from tests.judged import evaluation, policy
from tests.tiny import tiny_adapter

NAME = "odin"


@pytest.fixture(scope="module")
def pins(
    stack: ServedStack, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pin, Pin]:
    """Two versions that were judged well."""
    folder = tmp_path_factory.mktemp(NAME)
    made = []
    for seed in (1, 2):
        path = tiny_adapter(tiny_model, folder / str(seed), name=NAME, seed=seed, scale=1.0)
        package = Package.open(path)
        pin = stack.register(path)
        said = evaluation(
            policy(), adapter=NAME, digest=pin.digest, base=package.manifest.base.digest
        )
        document = said.to_json().encode()
        info = stack.registry.version(NAME, pin.version)
        stack.registry.attest(info, "evaluation.json", document)
        made.append(pin)
    return made[0], made[1]


def alias(stack: ServedStack) -> int | None:
    found = stack.registry.aliased(NAME, "local")
    return found.version if found else None


def test_the_next_call_after_a_command_meets_what_it_did(
    stack: ServedStack, pins: tuple[Pin, Pin]
) -> None:
    first, second = pins
    key = KeyStore(f"sqlite:///{stack.home.root / 'gateway.db'}").create(NAME)[0]

    def by_gateway() -> Picture:
        return stack.gateway(key, prompt="a red cat", seed=1, steps=2, adapter=NAME)

    def by_triton() -> Picture:
        return stack.grpc(prompt="a red cat", seed=1, steps=2, adapters=[{"name": NAME}])

    for pin in pins:
        standing = promote(
            NAME,
            pin.version,
            registry=stack.registry,
            home=stack.home,
            policy=policy(),
            smoke=local_smoke(stack.home),
            wait=300,
        )
        assert standing.state == "serving", standing
        assert (by_gateway().digest, by_triton().digest) == (pin.digest, pin.digest)
        assert alias(stack) == pin.version

    # The quickest way there is: no registry, no smoke picture that would take its time.
    standing = rollback(NAME, registry=None, home=stack.home)
    assert by_gateway().digest == first.digest
    assert by_triton().digest == first.digest
    assert (standing.version, standing.state) == (first.version, "pending")
    stack.wait_for(lambda: alias(stack) == first.version, "`serve` to move the alias")

    standing = rollback(NAME, 2, registry=None, home=stack.home)  # and forth again
    assert by_triton().digest == second.digest
    assert by_gateway().digest == second.digest

    standing = retire(NAME, registry=stack.registry, home=stack.home)
    assert standing.state == "retired"
    with pytest.raises(urllib.error.HTTPError) as refused:
        by_gateway()
    assert refused.value.code == 404
    assert alias(stack) is None
