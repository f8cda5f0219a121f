"""V2 calls over HTTP to several replicas: real servers of a page, one of them not there."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from atelier.contract.replica import Replica
from services.gateway.balance import Balancer, Fleet
from services.gateway.environment_source import shares_of
from services.gateway.replicas import Replicas, V2Answer
from services.gateway.triton_client import EngineAway, EngineBusy, TimedOut
from services.triton.process import free_port
from tests.gateway import BASE

PATH = "/v2/models/atelier/infer"


ERRORS = {  # by the server's mood
    "full": "64 wait (retry after 2.5 s)",
    "loading": "Request for unknown model: 'atelier' has no available versions",
    "away": "upstream connect error",
}


class Server(ThreadingHTTPServer):
    """Answers with its name or an error, breaks off, or says nothing."""

    daemon_threads = True

    def __init__(self, name: str) -> None:
        self.name, self.mood = name, "well"
        self.seen: list[bytes] = []
        self.freed = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.seen.append(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.mood == "breaks":
            self.connection.close()
            return
        if self.server.mood == "sleeps":
            self.server.freed.wait(20)
        error = ERRORS.get(self.server.mood)
        told = {"from": self.server.name, "key": self.headers["X-API-Key"]}
        body = json.dumps({"error": error} if error else told).encode()
        self.send_response(503 if error else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    made = [Server("a"), Server("b")]
    for one in made:
        threading.Thread(target=one.serve_forever, daemon=True).start()
    yield made
    for one in made:
        one.freed.set()
        one.shutdown()
        one.server_close()


def replica(name: str, port: int) -> Replica:
    return Replica(
        replica=name,
        base=BASE,
        backend="torch",
        engine_digest="e",
        heartbeat=0.0,
        address=f"127.0.0.1:{port}",
    )


@contextmanager
def fleet(replicas: Sequence[Replica]) -> Iterator[tuple[Replicas, asyncio.Runner]]:
    with asyncio.Runner() as runner:
        made = Replicas(Balancer(lambda: Fleet(replicas)), "atelier", default=None)
        yield made, runner
        runner.run(made.close())


@contextmanager
def silent_port() -> Iterator[int]:
    """A port whose queue of connections is full: the kernel answers no further one."""
    with ExitStack() as sockets:
        full = sockets.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            caller = sockets.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        yield full.getsockname()[1]


async def ask(replicas: Replicas, timeout: float = 20) -> V2Answer:
    return await replicas.forward(
        "POST", PATH, body=b"{}", headers={}, caller="key", timeout=timeout
    )


def test_calls_are_shared_and_one_that_is_not_there_costs_none(servers: list[Server]) -> None:
    nobody = replica("c", free_port())
    there = [replica(one.name, one.server_port) for one in servers]
    with fleet([*there, nobody]) as (replicas, runner):

        async def many() -> list[V2Answer]:
            return await asyncio.gather(*(ask(replicas) for _ in range(20)))

        answers = runner.run(many())
    assert {answer.status for answer in answers} == {200}
    assert min(len(one.seen) for one in servers) >= 5
    assert sum(len(one.seen) for one in servers) == 20


def test_a_call_that_may_have_been_drawn_is_not_sent_again(servers: list[Server]) -> None:
    there = [replica(one.name, one.server_port) for one in servers]
    for one in servers:
        one.mood = "breaks"
    with fleet(there) as (replicas, runner):
        with pytest.raises(EngineAway, match="the connection to the image engine broke"):
            runner.run(ask(replicas))
        assert sum(len(one.seen) for one in servers) == 1
        for one in servers:
            one.mood = "sleeps"
        with pytest.raises(TimedOut):
            runner.run(ask(replicas, timeout=0.5))
    assert sum(len(one.seen) for one in servers) == 2


def test_a_node_that_is_lost_costs_none(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing refuses the connection there: it is only never made."""
    monkeypatch.setattr("services.gateway.replicas.CONNECT_SECONDS", 0.2)
    with silent_port() as port:
        there = [replica("lost", port), replica(servers[0].name, servers[0].server_port)]
        with fleet(there) as (replicas, runner):
            assert [runner.run(ask(replicas)).status for _ in range(4)] == [200] * 4
            assert replicas._balancer._left_out.keys() == {"lost"}
        alone = fleet(there[:1])
        with alone as (replicas, runner), pytest.raises(EngineAway, match="does not answer"):
            runner.run(ask(replicas))


@pytest.mark.parametrize("mood", ["full", "loading"])
def test_a_call_that_was_not_begun_goes_to_another(servers: list[Server], mood: str) -> None:
    there = [replica(one.name, one.server_port) for one in servers]
    servers[0].mood = mood
    with fleet(there) as (replicas, runner):
        assert [runner.run(ask(replicas)).status for _ in range(4)] == [200] * 4
        assert servers[0].seen
        servers[1].mood = mood
        with pytest.raises(EngineBusy if mood == "full" else EngineAway) as caught:
            runner.run(ask(replicas))
    assert caught.value.retry_after == (2.5 if mood == "full" else 1.0)


def test_any_other_error_is_passed_on_as_it_is(servers: list[Server]) -> None:
    there = [replica(one.name, one.server_port) for one in servers]
    for one in servers:
        one.mood = "away"
    with fleet(there) as (replicas, runner):
        answer = runner.run(ask(replicas))
    assert (answer.status, answer.text()) == (503, ERRORS["away"])
    assert sum(len(one.seen) for one in servers) == 1


def test_nobody_there_is_said() -> None:
    alone = [replica("c", free_port())]
    with fleet(alone) as (replicas, runner), pytest.raises(EngineAway, match="does not answer"):
        runner.run(ask(replicas))
    with fleet([]) as (replicas, runner), pytest.raises(EngineAway, match="no replica"):
        runner.run(ask(replicas))


def test_a_file_of_shares_is_followed_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "traffic.json"
    shares = shares_of(file)
    assert shares() == {}
    file.write_text('{"next": 20}')
    assert shares() == {"next": 20}
    for bad in ("{", "[]", '{"next": 101}', '{"a": 60, "b": 60}', '{"next": "20"}'):
        file.write_text(bad)
        assert shares() == {"next": 20}
    file.unlink()
    assert shares() == {}
