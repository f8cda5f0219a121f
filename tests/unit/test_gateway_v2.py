"""V2 infer requests: read, pinned, written again; whatever else comes is refused by name."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import tritonclient.http as v2client
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.v2 import V2Call, V2Refused
from tests.gateway import Client, serving
from tests.integration.stack import v2_inputs


def encode(*, binary: bool = True, **values: Any) -> tuple[bytes, str | None]:
    """What Triton's own client sends, and the length it tells."""
    inputs = v2_inputs(v2client, **values)
    if not binary:
        for one in inputs:
            data = one._get_binary_data()
            if one.datatype() == "BYTES":
                one.set_data_from_numpy(np.array([data[4:]], np.object_), binary_data=False)
            else:
                kind = {"INT64": np.int64, "INT32": np.int32, "FP32": np.float32}[one.datatype()]
                one.set_data_from_numpy(np.frombuffer(data, kind), binary_data=False)
    body, length = v2client.InferenceServerClient.generate_request_body(inputs)
    return body, None if length is None else str(length)


@pytest.mark.parametrize("binary", [True, False])
def test_what_tritons_client_sends_is_read(binary: bool) -> None:
    adapters = [{"name": "thor-cat", "weight": 0.5}]
    body, length = encode(
        binary=binary, prompt="a café", adapters=adapters, seed=-1, steps=4, images=2
    )
    call = V2Call.parse(body, length)
    assert call.text("PROMPT") == "a café"
    assert json.loads(call.text("ADAPTERS") or "") == adapters
    assert (call.number("SEED"), call.number("STEPS"), call.number("IMAGES")) == (-1, 4, 2)
    assert call.text("NEGATIVE_PROMPT") is None and call.number("WIDTH") is None
    assert V2Call.parse(*_sent(call)) == call


@pytest.mark.parametrize("binary", [True, False])
def test_pinning_changes_nothing_else(binary: bool) -> None:
    body, length = encode(
        binary=binary, prompt="a cat", adapters=[{"name": "thor-cat"}], seed=7, steps=4
    )
    before = V2Call.parse(body, length)
    after = V2Call.parse(*_sent(before.with_text("ADAPTERS", "[pinned]")))
    assert after.text("ADAPTERS") == "[pinned]"
    assert (after.text("PROMPT"), after.number("SEED"), after.number("STEPS")) == ("a cat", 7, 4)
    assert after.head["inputs"][0] == before.head["inputs"][0]


def _sent(call: V2Call) -> tuple[bytes, str]:
    body, length = call.body()
    return body, str(length)


def test_what_cannot_be_read_is_refused_by_name() -> None:
    good = {"name": "PROMPT", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    bad: list[tuple[bytes, str | None, str]] = [
        (b"{", None, "not valid JSON"),
        (b"[" * 100_000, None, "not valid JSON"),
        (b"[]", None, "inputs: must be a list"),
        (b'{"inputs": [1]}', None, "inputs: must be a list"),
        (json.dumps({"inputs": [good, good]}).encode(), None, "an input occurs twice"),
        (b"{}", "x", "is not a number of bytes"),
        (json.dumps({"inputs": [good]}).encode() + b"..", "67", "not valid JSON|after the last"),
    ]
    for body, length, words in bad:
        with pytest.raises(V2Refused, match=words):
            V2Call.parse(body, length)
    outputs: list[tuple[Any, str]] = [
        ({}, "outputs: must be a list"),
        ([{"name": 1}], "outputs: must be a list"),
        ([{"name": "IMAGES"}], "'IMAGES' is not one of IMAGE and INFO"),
        ([{"name": "INFO"}, {"name": "INFO"}], "once"),
        (
            [{"name": "IMAGE", "parameters": {"shared_memory_region": "x"}}],
            "'shared_memory_region'",
        ),
        ([{"name": "IMAGE", "parameters": {"classification": 1}}], "'classification'"),
    ]
    for listed, words in outputs:
        with pytest.raises(V2Refused, match=words):
            V2Call.parse(json.dumps({"inputs": [good], "outputs": listed}).encode(), None).outputs()
    with pytest.raises(V2Refused, match="parameters"):
        V2Call.parse(json.dumps({"inputs": [good], "parameters": 1}).encode(), None)
    for size in (-1, 99, "1"):
        head = {**good, "parameters": {"binary_data_size": size}}
        with pytest.raises(V2Refused, match="does not fit the body"):
            V2Call.parse(json.dumps({"inputs": [head]}).encode(), None)


@given(st.binary(max_size=60), st.one_of(st.none(), st.text(max_size=5)))
def test_noise_is_refused_and_nothing_else_happens(body: bytes, length: str | None) -> None:
    with suppress(V2Refused):
        V2Call.parse(body, length)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    with serving(tmp_path_factory.mktemp("gateway")) as made:
        yield made


def infer(client: Client, body: bytes, length: str | None = None, **headers: str) -> Any:
    given = {"X-API-Key": client.key, **headers}
    if length:
        given["Inference-Header-Content-Length"] = length
    return client.http.post("/v2/models/atelier/infer", content=body, headers=given)


def test_errors_are_as_v2_clients_expect_them(client: Client) -> None:
    prompt = {"name": "PROMPT", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    adapters = {"name": "ADAPTERS", "datatype": "BYTES", "shape": [1]}

    def with_adapters(text: str) -> bytes:
        return json.dumps({"inputs": [prompt, {**adapters, "data": [text]}]}).encode()

    images = {"name": "IMAGES", "datatype": "INT32", "shape": [1], "data": [99]}
    cases: list[tuple[Any, int, str]] = [
        (client.http.get("/v2"), 401, "API key: missing"),
        (client.http.get("/v2", headers={"X-API-Key": "atl_no"}), 401, "API key: unknown"),
        (infer(client, b"{"), 400, "not valid JSON"),
        (infer(client, with_adapters('[{"name": "nobody"}]')), 404, "'nobody' is not served"),
        (infer(client, with_adapters('[{"nam": "x"}]')), 400, "ADAPTERS: 0.name"),
        (infer(client, with_adapters("{")), 400, "ADAPTERS"),
        (
            infer(client, json.dumps({"inputs": [prompt, images]}).encode()),
            400,
            "99 exceeds the limit",
        ),
        (infer(client, b"x" * 5000), 413, "exceeds the limit of this gateway, 2048 bytes"),
        (infer(client, b"x", **{"Content-Encoding": "gzip"}), 400, "uncompressed"),
    ]
    path, headers = "/v2/models/other/infer", {"X-API-Key": client.key}
    cases += [
        (
            client.http.post(path, content=b"{}", headers=headers),
            400,
            "model 'other': no such model",
        ),
        (client.http.post("/v2/repository/index", headers=headers), 404, "no such route"),
        (client.http.post("/v2/models/atelier/unload", headers=headers), 404, "no such route"),
    ]
    for response, status, words in cases:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/json"
        assert list(response.json()) == ["error"] and words in response.json()["error"]
    assert client.usage()["images"] == client.usage()["in_progress"] == 0


def test_where_no_replica_tells_its_address_that_is_said(client: Client) -> None:
    body, length = encode(prompt="a cat")
    response = infer(client, body, length)
    assert response.status_code == 503 and "no replica can be reached" in response.json()["error"]
    assert client.usage()["in_progress"] == 0


def test_the_documentation_has_it(client: Client) -> None:
    paths = client.http.get("/openapi.json").json()["paths"]
    assert "ADAPTERS is a JSON list" in paths["/v2/models/{model}/infer"]["post"]["description"]
