"""Every HTTP client of the project: a credential reaches only the address it was given for."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from atelier import http_client
from atelier.ci.github import GitHub
from atelier.ci.oidc import token
from atelier.data.release import Release
from atelier.errors import BadInput, Unavailable
from commands.serve.gateway_client import GatewayClient
from pipelines.delivery.smoke import gateway_smoke

SECRET = "kept-between-two"
HEX = f"sha256:{'1' * 64}"
RELEASE = Release(adapter="thor-cat", version=1, digest=HEX, base=HEX)


class Server(ThreadingHTTPServer):
    """Remembers who asked for what with which headers; sends everybody on to `target`, if any."""

    def __init__(self, target: str | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.status = 302
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        self.send_response(self.server.status if self.server.target else 200)
        if self.server.target:
            self.send_header("Location", f"{self.server.target}{self.path}")
        body = b'{"value": "x", "images": []}'
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = _answer  # noqa: N815 (http.server's names)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """One that redirects to the other."""
    with ExitStack() as stack:
        other = stack.enter_context(Server())
        first = stack.enter_context(Server(other.address))
        for one in (first, other):
            Thread(target=one.serve_forever, args=(0.02,), daemon=True).start()
            stack.callback(one.shutdown)
        yield first, other


def login(address: str, key: str) -> object:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{address}/token?api-version=2")
        environment.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", key)
        return token("atelier")


CALLS: dict[str, Callable[[str, str], object]] = {
    "GitHub": lambda address, key: GitHub(address, "a/b", key).comment(1, "lint", "text"),
    "usage": lambda address, key: GatewayClient(address, key).usage(),
    "generate": lambda address, key: GatewayClient(address, key).generate(prompt="x"),
    "smoke": lambda address, key: gateway_smoke(address, key)(RELEASE, RELEASE.pin, ()),
    "login": login,
}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_credential_follows_a_redirect(
    call: Callable[[str, str], object], status: int, servers: tuple[Server, Server]
) -> None:
    first, other = servers
    first.status = status
    with pytest.raises(BadInput, match=f"redirects to {other.address}") as caught:
        call(first.address, SECRET)
    assert len(first.asked) == 1 and SECRET in str(first.asked)
    assert other.asked == []
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("key", [f"{SECRET}\nx", f"{SECRET}é"], ids=["newline", "umlaut"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(
    call: Callable[[str, str], object], key: str, servers: tuple[Server, Server]
) -> None:
    with pytest.raises(BadInput, match="the key has a character") as caught:
        call(servers[1].address, key)
    assert SECRET not in str(caught.value)
    assert servers[1].asked == []


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ftp://a", "http://user:hidden#@host", ""])
def test_an_address_that_is_none_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(BadInput, match="must have the form https://") as caught:
        http_client.send("GET", address, what="a service", timeout=1)
    assert "hidden" not in str(caught.value)


def test_nobody_there_is_a_matter_of_time() -> None:
    with pytest.raises(Unavailable, match=r"a service: .*refused"):
        http_client.send("GET", "http://127.0.0.1:9", what="a service", timeout=1)
    assert not http_client.is_ready("http://127.0.0.1:9/readyz")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls and says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unavailable, match="a service: timed out"):
            http_client.send("POST", address, what="a service", timeout=0.2, body={})


def test_any_text_is_sent_and_no_number_that_json_lacks(servers: tuple[Server, Server]) -> None:
    address = servers[1].address
    answer = http_client.send("POST", address, what="it", timeout=5, body={"prompt": "é\ud800"})
    assert http_client.decoded(answer, what="it") == {"value": "x", "images": []}
    with pytest.raises(BadInput, match="a number is infinite"):
        http_client.send("POST", address, what="it", timeout=5, body={"scale": float("nan")})


def test_ready_is_200_and_nothing_else(servers: tuple[Server, Server]) -> None:
    first, other = servers
    assert http_client.is_ready(other.address)
    assert not http_client.is_ready(first.address)
    assert len(other.asked) == 1
