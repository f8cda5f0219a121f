"""Clients of Triton and of KServe that hold a key, through the gateway to the real Triton."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as v2client
from tritonclient.utils import InferenceServerException

from services.gateway.keys import KeyStore
from tests.integration.conftest import TwoVersions
from tests.integration.kserve_client import kserve_draws
from tests.integration.stack import PATIENCE, Pixels, ServedStack, v2_inputs

ASKED: dict[str, Any] = {"prompt": "a red cat", "seed": 3, "steps": 2}


@pytest.fixture(scope="module")
def key(stack: ServedStack, thor: TwoVersions) -> str:
    """A key for ten pictures, and `thor` in its first version."""
    stack.release(thor.name, thor.pins[0])
    return KeyStore(f"sqlite:///{stack.home.root / 'gateway.db'}").create("v2", quota=10)[0]


@pytest.fixture
def client(stack: ServedStack) -> Iterator[v2client.InferenceServerClient]:
    """Triton's own, pointed at the gateway."""
    address = stack.addresses["gateway"].removeprefix("http://")
    made = v2client.InferenceServerClient(
        address, network_timeout=PATIENCE, connection_timeout=PATIENCE
    )
    yield made
    made.close()


def used(stack: ServedStack, key: str) -> int:
    answer = httpx.get(f"{stack.addresses['gateway']}/api_key_usage", headers={"X-API-Key": key})
    found = answer.json()
    assert found["in_progress"] == 0
    return int(found["images"])


def check(stack: ServedStack, pixels: Pixels, info: str | bytes, pin: Any) -> None:
    """The pictures are those of the version, drawn by Triton when it is asked itself."""
    (only,) = json.loads(info)["adapters"]
    assert (only["version"], only["digest"]) == (pin.version, pin.digest)
    direct = stack.http(**ASKED, adapters=[{"name": "thor", "version": pin.version}])
    np.testing.assert_array_equal(pixels, direct.pixels)


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_the_version_that_serves_and_pays_for_it(
    stack: ServedStack,
    thor: TwoVersions,
    key: str,
    client: v2client.InferenceServerClient,
    binary: bool,
) -> None:
    headers = {"X-API-Key": key}
    assert client.is_server_live(headers) and client.is_server_ready(headers)
    assert client.is_model_ready("atelier", headers=headers)
    assert client.get_model_metadata("atelier", headers=headers)["name"] == "atelier"
    assert client.get_model_config("atelier", headers=headers)["max_batch_size"] == 0
    before = used(stack, key)
    inputs = v2_inputs(v2client, **ASKED, adapters=[{"name": "thor"}])
    outputs = [v2client.InferRequestedOutput(n, binary_data=binary) for n in ("IMAGE", "INFO")]
    found = client.infer("atelier", inputs, outputs=outputs, headers=headers)
    (info,) = found.as_numpy("INFO").reshape(-1)
    check(stack, found.as_numpy("IMAGE"), info, thor.pins[0])
    assert used(stack, key) == before + 1


def test_a_client_that_takes_compressed_answers_gets_its_pictures(
    key: str, client: v2client.InferenceServerClient
) -> None:
    found = client.infer(
        "atelier",
        v2_inputs(v2client, **ASKED),
        headers={"X-API-Key": key},
        response_compression_algorithm="gzip",
    )
    assert found.as_numpy("IMAGE").dtype == np.uint8


def test_kserves_client_does_as_well(stack: ServedStack, thor: TwoVersions, key: str) -> None:
    inputs = {
        "PROMPT": ASKED["prompt"],
        "ADAPTERS": json.dumps([{"name": "thor"}]),
        "SEED": ASKED["seed"],
        "STEPS": ASKED["steps"],
    }
    pixels, info = kserve_draws(stack.addresses["gateway"], key, inputs)
    check(stack, pixels, info, thor.pins[0])


def test_what_goes_wrong_is_said_in_tritons_way_and_costs_nothing(
    stack: ServedStack, key: str, client: v2client.InferenceServerClient
) -> None:
    before = used(stack, key)
    cases: list[tuple[dict[str, Any], dict[str, str], str, str]] = [
        ({}, {}, "401", "API key: missing"),
        ({"adapters": [{"name": "nobody"}]}, {"X-API-Key": key}, "404", "'nobody' is not served"),
        ({"scheduler": "no such"}, {"X-API-Key": key}, "400", "scheduler"),
        ({"images": 9}, {"X-API-Key": key}, "400", "9 exceeds the limit of this gateway, 8"),
    ]
    for changes, headers, status, words in cases:
        with pytest.raises(InferenceServerException, match=words) as caught:
            client.infer("atelier", v2_inputs(v2client, **ASKED, **changes), headers=headers)
        assert caught.value.status() == status
    assert used(stack, key) == before
    with pytest.raises(InferenceServerException, match=r"8 image.* left of a quota"):
        images = {"images": 8}
        client.infer("atelier", v2_inputs(v2client, **ASKED, **images), headers={"X-API-Key": key})


def test_a_swap_moves_v2_clients_too(
    stack: ServedStack, thor: TwoVersions, key: str, client: v2client.InferenceServerClient
) -> None:
    inputs = v2_inputs(v2client, **ASKED, adapters=[{"name": "thor"}])
    try:
        stack.release(thor.name, thor.pins[1])

        def version() -> int:
            found = client.infer("atelier", inputs, headers={"X-API-Key": key})
            (only,) = json.loads(found.as_numpy("INFO").reshape(-1)[0])["adapters"]
            return int(only["version"])

        stack.wait_for(lambda: version() == thor.pins[1].version, "the gateway to move", 30)
        pinned = v2_inputs(
            v2client, **ASKED, adapters=[{"name": "thor", "version": thor.pins[0].version}]
        )
        found = client.infer("atelier", pinned, headers={"X-API-Key": key})
        check(stack, found.as_numpy("IMAGE"), found.as_numpy("INFO").reshape(-1)[0], thor.pins[0])
    finally:
        stack.release(thor.name, thor.pins[0])
