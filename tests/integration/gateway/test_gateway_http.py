"""The gateway as a process: bodies that stream, clients that hang up, engines that fail, an end."""

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

from commands.load import LoadGenerator
from services.gateway.keys import KeyStore
from services.gateway.png import read_metadata
from tests.gateway import ONE, TWO, digests
from tests.integration.gateway.conftest import Gateway, Setting, run_gateway
from tests.integration.gateway.v2 import Call, V2Server, wait_for
from tests.integration.gateway.v2http import V2HttpServer


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """One gateway for this file: starting one takes seconds of both cores."""
    setting = Setting(
        tmp_path_factory.mktemp("gateway"),
        ATELIER_GATEWAY_REQUEST_TIMEOUT="3",
        ATELIER_GATEWAY_BODY_LIMIT="4096",
    )
    setting.start()
    yield setting
    setting.close()


@pytest.fixture
def gateway(shared: Setting) -> Gateway:
    return shared.gateways[0]


@pytest.fixture
def v2(shared: Setting) -> Iterator[V2Server]:
    yield shared.v2
    shared.v2.on_call = lambda call: None
    shared.v2.paint = V2Server.paint


@pytest.fixture
def key(shared: Setting) -> str:
    """A new one for each test, so that its usage starts at nothing."""
    return KeyStore(shared.database_url).create("tests")[0]


def slug(response: httpx.Response) -> str:
    """The problem's kind."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    assert "Traceback" not in response.text
    return str(response.json()["type"]).rpartition(":")[2]


def refuse(code: grpc.StatusCode, text: str) -> Callable[[Call], None]:
    return lambda call: call.fail(code, text)


def test_what_the_engine_says_becomes_what_the_client_hears(
    gateway: Gateway, v2: V2Server, key: str
) -> None:
    response = gateway.make(key, seed=2**64 - 1, steps=4, width=64)
    assert response.status_code == 200
    sent = v2.calls[-1]
    assert (sent.inputs["SEED"], sent.inputs["STEPS"], sent.inputs["WIDTH"]) == (-1, 4, 64)
    assert "HEIGHT" not in sent.inputs and sent.timeout_us == pytest.approx(3e6, rel=0.1)

    code = grpc.StatusCode
    cases: list[tuple[grpc.StatusCode, str, str, str | None]] = [
        (code.INVALID_ARGUMENT, "steps: 0 is not between 1 and 150", "invalid-request", None),
        (code.UNAVAILABLE, "64 wait (retry after 2.5 s)", "engine-busy", "3"),
        (code.NOT_FOUND, "Request for unknown model: 'atelier' is not found", "engine-away", "1"),
        (code.UNAVAILABLE, "Request for unknown model: it is not ready", "engine-away", "1"),
        (code.CANCELLED, "the request was cancelled", "timed-out", None),
        (code.INTERNAL, "internal error: ValueError: /secret/path", "engine-failed", None),
    ]
    for status, text, kind, retry in cases:
        v2.on_call = refuse(status, text)
        response = gateway.make(key)
        assert slug(response) == kind, text
        assert response.headers.get("retry-after") == retry
        assert "secret" not in response.text
    usage = gateway.usage(key)
    assert (usage["images"], usage["in_progress"]) == (1, 0)
    text = gateway.http.get("/metrics").text
    assert "atelier_gateway_queue_rejections_total 1.0" in text
    assert "/secret/path" in gateway.log.read_text()  # the operator does see the cause


def test_a_call_that_takes_too_long_is_ended_in_the_engine_as_well(
    gateway: Gateway, v2: V2Server, key: str
) -> None:
    ended = threading.Event()

    def sleep(call: Call) -> None:
        call.context.add_callback(ended.set)
        ended.wait(30)

    v2.on_call = sleep
    began = time.monotonic()
    assert slug(gateway.make(key)) == "timed-out"
    assert 2.5 < time.monotonic() - began < 15
    assert ended.wait(10)


def test_a_client_that_hangs_up_stops_its_call_and_pays_nothing(
    gateway: Gateway, v2: V2Server, key: str
) -> None:
    cancelled = threading.Event()

    def sleep(call: Call) -> None:
        call.context.add_callback(cancelled.set)
        cancelled.wait(30)

    v2.on_call = sleep
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"http://127.0.0.1:{gateway.port}/generate_image",
            json={"prompt": "a cat"},
            headers={"X-API-Key": key},
            timeout=0.7,
        )
    assert cancelled.wait(2.0)  # well before the three seconds that a call may take
    wait_for(lambda: gateway.usage(key)["in_progress"] == 0)
    assert gateway.usage(key)["images"] == 0


def test_a_streamed_body_is_bounded_although_nobody_announced_its_length(
    gateway: Gateway, key: str
) -> None:
    sent = []

    def endless() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(100_000):
            sent.append(1)
            yield b"x" * 1024

    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        connection.sendall(
            b"POST /generate_image HTTP/1.1\r\nHost: x\r\nX-API-Key: " + key.encode() + b"\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        answer = b""
        try:
            for chunk in endless():
                connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            while data := connection.recv(65536):
                answer += data
        except ConnectionResetError:
            pass
    assert len(sent) < 100_000  # it was stopped, not read to its end
    assert b"413" in answer.split(b"\r\n", 1)[0] or answer == b""

    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    small = (b'{"prompt": "', b"x" * 5000, b'"}')
    response = gateway.http.post("/generate_image", content=iter(small), headers=headers)
    assert slug(response) == "body-too-large"
    assert gateway.make(key).status_code == 200


def test_an_engine_that_comes_later_is_found_within_seconds(
    gateway: Gateway, shared: Setting, key: str
) -> None:
    shared.v2.stop()
    response = gateway.make(key)
    assert (slug(response), response.headers["retry-after"]) == ("engine-away", "1")
    assert gateway.http.get("/readyz").json()["checks"] == {"engine": False, "database": True}
    shared.v2 = V2Server(port=shared.v2.port)
    wait_for(lambda: gateway.http.get("/readyz").status_code == 200, 15)
    assert gateway.make(key).status_code == 200


def test_a_swap_under_traffic_loses_nothing_and_mixes_nothing(
    gateway: Gateway, shared: Setting, v2: V2Server, key: str
) -> None:
    """Version 2 is released and loaded, 1 is dropped, while calls run: each shows one version."""
    stage = shared.stage
    for version, manifest in ((1, ONE), (2, TWO)):
        stage.package(manifest)
        v2.digests |= digests([(version, manifest)])
    stage.load(ONE, 1)
    stage.release(ONE, 1)
    gone: set[int] = set()

    def engine(call: Call) -> None:
        time.sleep(0.05)
        missing = [one for one in call.adapters if one["version"] in gone]
        if missing:
            call.fail(grpc.StatusCode.NOT_FOUND, f"adapter {missing[0]['name']}: no such version")

    v2.on_call = engine

    def ask(_: int) -> int:
        """The version that a picture shows, which is also the one that it names."""
        stage.report()
        body = {"prompt": "a cat", "adapter": "thor-cat"}
        headers = {"X-API-Key": key, "Accept": "image/png"}
        response = gateway.http.post("/generate_image", json=body, headers=headers)
        assert response.status_code == 200, response.text
        (used,) = (read_metadata(response.content) or {})["adapters"]
        colour = int(_pixels(response.content)[0, 0, 0])
        assert colour == used["version"]
        return colour

    wait_for(lambda: "thor-cat" in _models(gateway, key))
    load = LoadGenerator(ask)
    with load.running(clients=4):
        load.wait_for(21)
        stage.release(TWO, 2)
        stage.load(TWO, 2)
        load.wait_for(1, where=lambda version: version == 2)
        stage.drop("thor-cat", 1)
        gone.add(1)
        load.wait_for(21)
    assert load.failures == []
    versions = [one.answer for one in load.answers]
    assert set(versions[-10:]) == {2} and versions[0] == 1


def test_an_answer_that_its_client_does_not_take_is_ended(
    gateway: Gateway, v2: V2Server, key: str
) -> None:
    """Its memory is reserved for as long as it is not sent, and no longer than a call may take."""
    v2.paint = lambda shape, _: np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    body = b'{"prompt": "a cat", "width": 2048, "height": 2048}'
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", gateway.port))
        slow.sendall(
            b"POST /generate_image HTTP/1.1\r\nHost: x\r\nX-API-Key: " + key.encode() + b"\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert slow.recv(12) == b"HTTP/1.1 200"
        assert _metric(gateway, "pixels") == 2048 * 2048
        wait_for(lambda: _metric(gateway, "pixels") == 0, 20)
    assert "the client did not read the response within 3 s" in gateway.log.read_text()
    assert gateway.usage(key)["images"] == 1  # it was delivered as far as it was taken


def test_large_pictures_at_once_stay_within_the_memory(tmp_path: Path) -> None:
    """64 million pixels are asked for; there is memory for 16 million at a time."""
    memory = 352 * 2**20
    setting = Setting(tmp_path, ATELIER_GATEWAY_MEMORY=str(memory), ATELIER_GATEWAY_MAX_SIDE="1024")
    setting.v2.on_call = lambda call: time.sleep(1.0)  # so that answers come together
    try:
        (gateway,) = setting.start()
        key, _ = KeyStore(setting.database_url).create("tests")
        asked = {"images": 8, "width": 1024, "height": 1024}
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: gateway.make(key, **asked), range(8)))
        assert {answer.status_code for answer in answers} == {200}
        assert _peak(gateway) < memory
        assert _metric(gateway, "pixels") == 0
    finally:
        setting.close()


def test_sigterm_finishes_what_runs_and_takes_nothing_new(
    gateway: Gateway, v2: V2Server, key: str
) -> None:
    running = threading.Event()

    def slow(call: Call) -> None:
        running.set()
        time.sleep(1.5)

    v2.on_call = slow
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(gateway.make, key)
        assert running.wait(20)
        gateway.process.terminate()
        wait_for(lambda: _refused(gateway.port), 10)
        assert not call.done()
        assert call.result().status_code == 200
    assert gateway.process.wait(20) == 0


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this kernel has no IPv6")
def test_it_listens_on_both_families_and_reaches_engines_by_ipv6(tmp_path: Path) -> None:
    v2, http = V2Server(host="[::1]"), V2HttpServer(host="::1")
    setting = Setting(
        tmp_path,
        ATELIER_GATEWAY_HOST="::",
        ATELIER_TRITON_URL=f"grpc://[::1]:{v2.port}",
    )
    try:
        (gateway,) = setting.start()
        key, _ = KeyStore(setting.database_url).create("tests")
        for host in ("127.0.0.1", "[::1]"):
            url = f"http://{host}:{gateway.port}/generate_image"
            answer = httpx.post(url, json={"prompt": "x"}, headers={"X-API-Key": key}, timeout=60)
            assert answer.status_code == 200, answer.text
        setting.stage.addresses["one"] = http.address
        setting.stage.load(ONE, 1)
        setting.stage.report(age=-60)  # nobody renews it
        look = {"headers": {"X-API-Key": key}}
        wait_for(lambda: gateway.http.get("/v2/health/live", **look).status_code == 200)
        assert http.address.startswith("[::1]:")
    finally:
        setting.close()
        v2.stop()
        http.stop()


def test_a_port_that_is_taken_is_one_line_and_exit_3(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run_gateway(ATELIER_HOME=str(tmp_path), ATELIER_GATEWAY_PORT=port)
    assert ended.returncode == 3
    assert ended.stderr.strip() == (
        f"atelier: 127.0.0.1:{port}: cannot listen: Address already in use; "
        "use another --host or --port"
    )


def test_a_setting_that_makes_no_sense_is_one_line_and_exit_2(tmp_path: Path) -> None:
    ended = run_gateway(ATELIER_HOME=str(tmp_path), ATELIER_TRITON_URL="http://127.0.0.1:8000")
    assert ended.returncode == 2
    assert (
        "ATELIER_TRITON_URL=http://127.0.0.1:8000: the gateway calls Triton over gRPC"
        in ended.stderr
    )
    assert len(ended.stderr.strip().splitlines()) == 1


def _models(gateway: Gateway, key: str) -> set[str]:
    listed = gateway.http.get("/v1/models", headers={"X-API-Key": key}).json()["data"]
    return {one["id"] for one in listed if one["ready"]}


def _metric(gateway: Gateway, name: str) -> float:
    lines = gateway.http.get("/metrics").text.splitlines()
    (line,) = (one for one in lines if one.startswith(f"atelier_gateway_{name} "))
    return float(line.split()[1])


def _peak(gateway: Gateway) -> int:
    """Bytes of memory that the process has had at most."""
    lines = Path(f"/proc/{gateway.process.pid}/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(found) * 1024


def _pixels(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)))


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False
