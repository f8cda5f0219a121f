"""The real Triton server: late answers, error codes, cancelled calls, and how it ends."""

import http.client
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from atelier.errors import AtelierError, Unavailable
from atelier.home import Home
from services.engine import Engine, ImageRequest
from services.triton import TritonServer, TritonSettings
from services.triton.process import alive
from services.triton.server import SHARED_MEMORY
from services.triton.watchdog import PERIOD
from tests.integration.conftest import TwoVersions
from tests.integration.stack import ServedStack, v2_inputs

STATUS = {  # HTTP status and gRPC status of the same refusal
    "bad": (400, "INVALID_ARGUMENT"),
    "unknown": (404, "NOT_FOUND"),
}


def test_http_and_grpc_draw_what_the_engine_draws(stack: ServedStack, oracle: Engine) -> None:
    asked = {"prompt": "a red cat", "seed": 2**64 - 1, "steps": 2, "images": 2}
    expected = oracle.generate(ImageRequest(**asked))
    sent = {**asked, "seed": -1}  # the same 64 bits
    for picture in (stack.http(**sent), stack.grpc(**sent)):
        difference = np.abs(picture.pixels.astype(int) - expected.images.astype(int))
        assert picture.pixels.shape == (2, 64, 64, 3)
        assert difference.max() <= 2
        assert picture.info["seeds"] == [2**64 - 1, 0]
        assert picture.info["base"] == oracle.base.digest
        assert picture.info["engine_digest"] == oracle.digest
        assert (picture.info["adapters"], picture.info["warnings"]) == ([], [])


def test_the_prompt_alone_is_a_whole_request(stack: ServedStack) -> None:
    picture = stack.http(prompt="a dog", steps=1)
    assert picture.pixels.shape == (1, 64, 64, 3)


def test_a_request_joins_others_and_leaves_before_them(stack: ServedStack) -> None:
    """A short request, sent while a long one runs, is answered long before it."""
    ended: dict[str, float] = {}

    def draw(name: str, steps: int) -> None:
        stack.http(prompt=name, steps=steps, guidance_scale=1.0)
        ended[name] = time.monotonic()

    with ThreadPoolExecutor(2) as threads:
        long = threads.submit(draw, "long", 150)
        time.sleep(0.2)
        short = threads.submit(draw, "short", 2)
        short.result()
        assert not long.done()
        long.result()
    assert ended["short"] < ended["long"]


@pytest.mark.parametrize(
    ("kind", "inputs", "named"),
    [
        ("bad", {"steps": 0}, "steps: 0"),
        ("bad", {"width": 100}, "width: 100 is not a multiple of 8"),
        ("bad", {"images": 9}, "images: 9"),
        ("bad", {"guidance_scale": float("nan")}, "guidance_scale: nan"),
        ("bad", {"scheduler": "magic"}, "scheduler: 'magic'"),
        ("bad", {"adapters": [{"name": "thor", "scale": 1}]}, "ADAPTERS[0].scale"),
        ("unknown", {"adapters": [{"name": "nobody"}]}, "adapter nobody"),
    ],
)
def test_a_refusal_says_by_its_code_and_text_what_to_change(
    stack: ServedStack, kind: str, inputs: dict[str, Any], named: str
) -> None:
    codes = []
    for draw in (stack.http, stack.grpc):
        with pytest.raises(InferenceServerException) as refused:
            draw(prompt="a cat", **{"steps": 1, **inputs})
        assert refused.value.message().startswith(named)
        codes.append(str(refused.value.status()).removeprefix("StatusCode."))
    status, code = STATUS[kind]
    assert codes == [str(status), code]


def test_a_seed_beyond_64_bits_is_refused_and_the_next_request_served(stack: ServedStack) -> None:
    address = stack.addresses["triton_http"].removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=60)

    def ask(seed: int) -> tuple[int, str]:
        inputs = [
            {"name": "PROMPT", "shape": [1], "datatype": "BYTES", "data": ["a cat"]},
            {"name": "STEPS", "shape": [1], "datatype": "INT32", "data": [1]},
            {"name": "SEED", "shape": [1], "datatype": "INT64", "data": [seed]},
        ]
        connection.request("POST", "/v2/models/atelier/infer", json.dumps({"inputs": inputs}))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    status, text = ask(2**64)
    assert status >= 400 and "data" in text  # Triton's own parser says no
    assert ask(2**62)[0] == 200
    connection.close()


def test_dropped_words_are_told(stack: ServedStack) -> None:
    picture = stack.http(prompt="cat " * 90 + "moustache", steps=1)
    (warning,) = picture.info["warnings"]
    assert "moustache" in warning


def outcomes(stack: ServedStack, name: str) -> float:
    return stack.metrics().get(f'atelier_engine_requests_total{{outcome="{name}"}}', 0.0)


def test_a_full_queue_says_when_to_come_back_and_cancelled_calls_leave_it(
    stack: ServedStack,
) -> None:
    """16 drawn and 24 waiting are this stack's bounds; calls that are given up make room."""
    before = outcomes(stack, "Cancelled")
    refused: list[Exception] = []
    lock = threading.Lock()

    def heard(result: Any, error: Any) -> None:
        with lock:
            if error is not None and "UNAVAILABLE" in str(error.status()):
                refused.append(error)

    with stack.grpc_client() as client:
        given = v2_inputs(tritonclient.grpc, prompt="a long wait", steps=150)
        calls = [client.async_infer("atelier", given, callback=heard) for _ in range(60)]
        stack.wait_for(lambda: refused, "a full queue")
        for call in calls:
            call.cancel()
    assert "(retry after " in refused[0].message()
    stack.wait_for(lambda: outcomes(stack, "Cancelled") - before >= 20, "the cancelled calls")
    stack.wait_for(lambda: not stack.metrics()["atelier_engine_images_running"], "an idle engine")
    assert stack.http(prompt="after the rush", steps=1).pixels.any()


def test_a_client_that_hangs_up_costs_nothing_after_its_picture(stack: ServedStack) -> None:
    """Triton tells a model nothing of a lost HTTP connection: the picture is made and dropped."""
    time.sleep(5 * PERIOD)  # Triton shows what the engine counted a period ago
    done = outcomes(stack, "done")
    connection = http.client.HTTPConnection(stack.addresses["triton_http"].removeprefix("http://"))
    inputs = [
        {"name": "PROMPT", "shape": [1], "datatype": "BYTES", "data": ["a cat"]},
        {"name": "STEPS", "shape": [1], "datatype": "INT32", "data": [20]},
    ]
    connection.request("POST", "/v2/models/atelier/infer", json.dumps({"inputs": inputs}))
    time.sleep(0.1)
    connection.close()
    stack.wait_for(lambda: outcomes(stack, "done") > done, "the dropped picture")
    time.sleep(5 * PERIOD)
    metrics = stack.metrics()
    waiting = "atelier_engine_requests_waiting"
    assert (metrics["atelier_engine_images_running"], metrics[waiting]) == (0.0, 0.0)
    assert outcomes(stack, "done") == done + 1


def test_the_router_can_see_what_runs_and_only_that(stack: ServedStack, thor: TwoVersions) -> None:
    stack.release("thor", thor.pins[0])

    def told() -> list[str]:
        return [name for name in stack.metrics() if name.startswith("lora_requests_info")]

    idle = 'lora_requests_info{max_lora="8",running_lora_adapters="",waiting_lora_adapters=""}'
    stack.wait_for(lambda: told() == [idle], "an idle engine's report")
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(stack.grpc, prompt="a cat", steps=150, adapters=[{"name": "thor"}])
        busy = idle.replace('running_lora_adapters=""', 'running_lora_adapters="thor"')
        stack.wait_for(lambda: told() == [busy] or running.done(), "a busy engine's report")
        assert not running.done()
        running.result()
    stack.wait_for(lambda: told() == [idle], "an idle engine's report")  # the old one is gone


def server(home: Path, base: Path, **variables: str) -> TritonServer:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    settings = TritonSettings(http_port=0, grpc_port=0, metrics_port=0)
    return TritonServer(Home(home), base, settings, environment=environment, start_seconds=420)


@pytest.fixture
def own_server(tmp_path: Path, tiny_model: Path) -> Iterator[TritonServer]:
    """A server that a test may end as it likes."""
    made = server(tmp_path / "own", tiny_model)
    made.start()
    yield made
    made.stop(drain=False)


def shared_memory(server: TritonServer) -> list[Path]:
    return sorted(SHARED_MEMORY.glob(f"{server._shared_prefix}*"))


def test_a_stopping_server_finishes_what_runs_and_leaves_nothing(
    own_server: TritonServer, tmp_path: Path, tiny_model: Path
) -> None:
    """With a connection kept open, which alone would hold Triton up for its whole exit timeout."""
    with pytest.raises(AtelierError, match="already served"):
        server(tmp_path / "own", tiny_model).start()
    worker, pid = own_server._control.worker(), own_server.pid
    assert worker is not None and pid is not None
    assert shared_memory(own_server)

    idle = http.client.HTTPConnection(own_server.http_url.removeprefix("http://"))
    idle.request("GET", "/v2/health/ready")
    idle.getresponse().read()
    with (
        ThreadPoolExecutor(1) as threads,
        tritonclient.grpc.InferenceServerClient(own_server.grpc_url) as client,
    ):
        given = v2_inputs(tritonclient.grpc, prompt="nearly done", steps=100)
        running = threads.submit(client.infer, "atelier", given)
        time.sleep(0.5)
        assert not running.done()
        began = time.monotonic()
        own_server.stop()
        seconds = time.monotonic() - began
        assert running.result().as_numpy("IMAGE").shape == (1, 64, 64, 3)
    idle.close()
    assert seconds < own_server.settings.drain_seconds
    assert not alive(worker) and not alive(pid)
    assert shared_memory(own_server) == []


def test_a_base_that_cannot_be_loaded_ends_the_start_with_the_reason(tmp_path: Path) -> None:
    broken = tmp_path / "base"
    broken.mkdir()
    (broken / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    started = server(tmp_path / "own", broken)
    with pytest.raises(Unavailable, match=r"model_index\.json names unet"):
        started.start()
    assert started.pid is None
    assert shared_memory(started) == []


def test_a_setting_that_the_model_cannot_use_is_told_without_a_stack(
    tmp_path: Path, tiny_model: Path
) -> None:
    """Whoever starts a server reads them before; here the model is the first."""
    started = server(tmp_path / "own", tiny_model, ATELIER_PRECISION="fp8")
    with pytest.raises(Unavailable, match="ATELIER_PRECISION=fp8: must be one of auto"):
        started.start()
    assert "Traceback" not in started.log.read_text()
