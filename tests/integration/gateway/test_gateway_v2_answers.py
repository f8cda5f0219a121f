"""What V2 clients get: the outputs that they ask for, in their form, and only by the right weights.

The engine is a V2 server of a page, as a real Triton gives no wrong answers; `test_serving_v2.py`
asks the real one.
"""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as v2client

from services.gateway.keys import KeyStore
from tests.gateway import ONE, TWO, Client, serving
from tests.integration.gateway.conftest import Gateway, Setting
from tests.integration.gateway.v2http import HEADER_LENGTH, V2HttpServer
from tests.integration.stack import v2_inputs

PATH = "/v2/models/atelier/infer"
BINARY, JSON = True, False


def noise(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


@pytest.fixture
def engine() -> Iterator[V2HttpServer]:
    made = V2HttpServer(digest=lambda adapter: ONE.digest, paint=noise)
    yield made
    made.stop()


@pytest.fixture
def client(tmp_path: Path, engine: V2HttpServer) -> Iterator[Client]:
    with serving(tmp_path) as made:
        made.stage.addresses["one"] = engine.address
        made.stage.report()
        made.http.app.state.parts.releases.look()  # type: ignore[attr-defined]
        yield made


def body_of(outputs: dict[str, bool] | None = None, **values: Any) -> tuple[bytes, dict[str, str]]:
    """A call as Triton's client sends it, and its headers."""
    inputs = v2_inputs(v2client, prompt="a cat", adapters=[{"name": "thor-cat"}], **values)
    asked = None
    if outputs is not None:
        asked = [v2client.InferRequestedOutput(n, binary_data=b) for n, b in outputs.items()]
    made, length = v2client.InferenceServerClient.generate_request_body(inputs, outputs=asked)
    return made, {} if length is None else {HEADER_LENGTH: str(length)}


def infer(client: Client, outputs: dict[str, bool] | None = None, **values: Any) -> Any:
    body, headers = body_of(outputs, **values)
    return client.http.post(PATH, content=body, headers={"X-API-Key": client.key, **headers})


def read(response: Any) -> v2client.InferResult:
    """As Triton's client reads it."""
    length = response.headers.get(HEADER_LENGTH)
    return v2client.InferenceServerClient.parse_response_body(
        response.content, header_length=None if length is None else int(length)
    )


@pytest.mark.parametrize(
    "outputs",
    [
        None,  # both, as binary data: the client says so for the whole call
        {"IMAGE": BINARY, "INFO": BINARY},
        {"IMAGE": JSON, "INFO": JSON},
        {"INFO": BINARY, "IMAGE": JSON},
        {"INFO": JSON, "IMAGE": BINARY},
        {"IMAGE": BINARY},
        {"IMAGE": JSON},
        {"INFO": BINARY},
        {"INFO": JSON},
    ],
)
def test_an_answer_has_the_outputs_that_were_asked_for_in_their_form(
    client: Client, engine: V2HttpServer, outputs: dict[str, bool] | None
) -> None:
    response = infer(client, outputs, images=2, width=64, height=40, seed=5)
    assert response.status_code == 200, response.text
    assert int(response.headers["content-length"]) == len(response.content)
    asked = {"INFO": BINARY, "IMAGE": BINARY} if outputs is None else outputs
    found = read(response)
    listed = {one["name"]: one for one in found.get_response()["outputs"]}
    assert listed.keys() == asked.keys()
    for name, binary in asked.items():
        assert ("data" in listed[name]) != binary, name
    kind = "octet-stream" if any(asked.values()) else "json"
    assert response.headers["content-type"] == f"application/{kind}"
    if "IMAGE" in asked:
        assert np.array_equal(found.as_numpy("IMAGE"), noise((2, 40, 64, 3)))
    if "INFO" in asked:
        (text,) = found.as_numpy("INFO").reshape(-1)
        (used,) = json.loads(text)["adapters"]
        assert (used["name"], used["version"], used["digest"]) == ("thor-cat", 1, ONE.digest)
    assert client.usage()["images"] == 2
    sent = [one["name"] for one in engine.calls[0].head["outputs"]]
    assert sent == (["INFO", "IMAGE"] if "IMAGE" in asked else ["INFO"])


def test_the_call_s_id_and_the_model_s_version_are_kept(client: Client) -> None:
    inputs = [{"name": "PROMPT", "datatype": "BYTES", "shape": [1], "data": ["a"]}]
    response = client.http.post(
        PATH, json={"id": "mine", "inputs": inputs}, headers={"X-API-Key": client.key}
    )
    said = response.json()
    assert (said["id"], said["model_name"], said["model_version"]) == ("mine", "atelier", "1")
    assert [one["name"] for one in said["outputs"]] == ["INFO", "IMAGE"]


def failed(client: Client) -> float:
    return client.metric("adapter_failures_total", adapter="thor-cat", version="1")


@pytest.mark.parametrize("outputs", [None, {"IMAGE": BINARY}, {"IMAGE": JSON, "INFO": JSON}])
def test_pictures_of_other_weights_are_not_delivered(
    client: Client, engine: V2HttpServer, outputs: dict[str, bool] | None
) -> None:
    engine.digest = lambda adapter: TWO.digest
    response = infer(client, outputs)
    assert response.status_code == 502
    assert response.json() == {"error": "the image engine failed; the operator's log has the cause"}
    assert client.usage() | {"images": 0, "in_progress": 0} == client.usage()
    assert failed(client) == 1


def test_an_engine_that_sends_pictures_before_it_says_of_what_is_refused(
    client: Client, engine: V2HttpServer
) -> None:
    engine.order = ("IMAGE", "INFO")
    assert infer(client).status_code == 502
    assert client.usage()["images"] == client.usage()["in_progress"] == 0


def test_an_engine_that_breaks_off_before_its_pictures_costs_nothing(
    client: Client, engine: V2HttpServer
) -> None:
    engine.breaks_after = 50
    response = infer(client)
    assert (
        response.status_code == 503
        and "the connection to the image engine broke" in response.json()["error"]
    )
    assert client.usage()["images"] == client.usage()["in_progress"] == 0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, V2HttpServer, str]]:
    """A gateway's process before an engine that paints black."""
    setting = Setting(tmp_path_factory.mktemp("gateway"))
    engine = V2HttpServer(digest=lambda adapter: ONE.digest)
    setting.stage.addresses["one"] = engine.address
    setting.stage.load(ONE, 1)
    setting.stage.release(ONE, 1)
    alive = threading.Event()
    beating = threading.Thread(target=_beat, args=(setting, alive), daemon=True)
    beating.start()
    try:
        (gateway,) = setting.start()
        yield gateway, engine, KeyStore(setting.database_url).create("tests")[0]
    finally:
        alive.set()
        beating.join()
        setting.close()
        engine.stop()


def _beat(setting: Setting, ended: threading.Event) -> None:
    while not ended.wait(0.5):
        setting.stage.report()


@pytest.fixture
def fast(served: tuple[Gateway, V2HttpServer, str]) -> Iterator[V2HttpServer]:
    """Its engine, which is as it was afterwards."""
    engine = served[1]
    yield engine
    engine.half_way, engine.breaks_after = (lambda: None), None


def stream(served: tuple[Gateway, V2HttpServer, str], outputs: Any, **values: Any) -> Any:
    gateway, _, key = served
    body, headers = body_of(outputs, **values)
    return gateway.http.stream("POST", PATH, content=body, headers={"X-API-Key": key, **headers})


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_are_passed_on_before_the_last_one_has_come(
    served: tuple[Gateway, V2HttpServer, str], fast: V2HttpServer, binary: bool
) -> None:
    """The engine sends the second half only once the client has some of the first."""
    seen, waited = threading.Event(), []
    fast.half_way = lambda: waited.append(seen.wait(30))
    with stream(served, {"IMAGE": binary}, width=1024, height=1024) as response:
        assert response.status_code == 200
        pieces = response.iter_raw()
        first = next(pieces)
        seen.set()
        rest = sum(len(piece) for piece in pieces)
    assert len(first) + rest == int(response.headers["content-length"])
    assert waited == [True]


def test_an_answer_whose_engine_breaks_off_is_broken_off(
    served: tuple[Gateway, V2HttpServer, str], fast: V2HttpServer
) -> None:
    fast.breaks_after = 100_000
    with (
        pytest.raises(httpx.RemoteProtocolError),
        stream(served, None, width=512, height=512) as response,
    ):
        assert response.status_code == 200
        response.read()
    assert "the connection to the image engine broke" in served[0].log.read_text()


def test_answers_are_never_held_whole(served: tuple[Gateway, V2HttpServer, str]) -> None:
    """Four of 25 MB at once, as JSON of 100 MB the half of them."""
    gateway = served[0]
    before = _memory(gateway, "VmRSS")

    def ask(binary: bool) -> int:
        asked = {"IMAGE": binary, "INFO": binary}
        with stream(served, asked, images=8, width=1024, height=1024) as response:
            assert response.status_code == 200
            return sum(len(piece) for piece in response.iter_raw())

    with ThreadPoolExecutor(4) as threads:
        sizes = list(threads.map(ask, [True, False, True, False]))
    assert min(sizes) > 8 * 1024 * 1024 * 3
    assert _memory(gateway, "VmHWM") - before < 24 * 2**20  # of less than one of them


def _memory(gateway: Gateway, name: str) -> int:
    """Bytes, by a name of /proc/PID/status."""
    lines = Path(f"/proc/{gateway.process.pid}/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(found) * 1024
