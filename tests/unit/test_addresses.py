"""Host and port as one address, and text in which no credentials are left."""

import json
import logging
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.addresses import host_port, listen, reachable, redact, split_host_port
from atelier.errors import BadInput, Unavailable
from atelier.home import Home
from atelier.logs import RedactingFormatter, traceback_of
from atelier.platform import Pod
from commands.errors import report
from commands.replica.plan import Addresses
from services.agent.__main__ import pod_identity
from services.agent.settings import AgentSettings
from services.gateway.settings import GatewaySettings
from services.triton.runtime import Runtime
from services.triton.server import TritonServer, TritonSettings

SCHEMES = ("http", "https", "postgresql", "postgresql+psycopg", "mysql", "grpc", "ssh", "s3")
CONTEXTS = (
    "MLflow at {url} does not answer; start it, or set MLFLOW_TRACKING_URI",
    "fatal: unable to access '{url}': Could not resolve host: host",
    "version 3 on replica a: MLflow at {url} could not fetch thor@3: 403 (two: {url})",
    '{{"error":"{url}"}}',
    "{url}",
)

# Marked, so that a part of the surrounding text cannot be taken for one of them.
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20)
users = texts.map("Üser{}".format)
passwords = texts.map("Pässword{}".format)


def raw(text: str) -> str:
    """As somebody writes it who has not heard of percent-encoding; white space is refused."""
    return "".join(text.split())


@given(
    user=users,
    password=passwords,
    spelt=st.sampled_from([lambda text: quote(text, safe=""), quote, raw]),
    scheme=st.sampled_from(SCHEMES),
    context=st.sampled_from(CONTEXTS),
    lone=st.booleans(),
)
def test_neither_user_nor_password_of_an_address_is_left(
    user, password, spelt, scheme, context, lone
) -> None:
    userinfo = spelt(password) if lone else f"{spelt(user)}:{spelt(password)}"
    text = context.format(url=f"{scheme}://{userinfo}@host:5000/path?x=1")
    for shown in (redact(text), str(Unavailable(text)), redact(redact(text))):
        assert "Üser" not in shown and "Pässword" not in shown
        assert quote("Üser") not in shown and quote("Pässword") not in shown
        assert "://***@host:5000/path?x=1" in shown


@pytest.mark.parametrize(
    "text",
    [
        "GET /artifacts/a.png?X-Amz-Signature={}&X-Amz-Date=1 failed",
        "https://bucket.blob.core.windows.net/a?sv=1&sig={}",
        "https://wandb.example.org/run?apiKey={}",
        "url: /api/2.0/mlflow?access_token={}",
        "connection failed: host=db user=atelier password={} dbname=x",
        "MLFLOW_TRACKING_TOKEN={}",
        "headers: {{'Authorization': 'Bearer {}'}}",
        "X-API-Key: {}",
        "connect(password='{}')",
    ],
)
def test_tokens_beside_addresses_are_hidden_too(text: str) -> None:
    shown = redact(text.format("s3cret-Tök.en/+="))
    assert "s3cret" not in shown and "***" in shown
    assert shown.startswith(text[:4])


@pytest.mark.parametrize(
    "text",
    [
        "adapter thor-cat: version 3 is not ready on any replica; available: thor-cat@1",
        "MLflow at http://mlflow:5000 does not answer",
        "sqlite:////home/anna/mlflow.db: it is not a database",
        "steps: 0 is not between 1 and 150",
        '{"adapter":"thor@3","weight":0.5}',
        "API key: missing; send it as X-API-Key or as Bearer",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


SECRET = "http://anna:s3cret@mlflow:5000"


def failure() -> BaseException:
    """An error of ours, with a library's behind it."""
    try:
        try:
            raise ConnectionError(f"Max retries exceeded: {SECRET}/api")
        except ConnectionError as error:
            raise Unavailable(f"MLflow at {SECRET} does not answer") from error
    except Unavailable as error:
        return error


def test_the_causes_of_an_error_are_printed_without_credentials(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert report(failure(), as_json=True, debug=True) == 3
    printed = capsys.readouterr()
    assert "ConnectionError: Max retries exceeded: http://***@mlflow:5000/api" in printed.err
    assert "s3cret" not in printed.err + printed.out and "anna" not in printed.err + printed.out
    assert "http://***@mlflow:5000" in json.loads(printed.out)["error"]["message"]
    report(RuntimeError(f"a bug at {SECRET}"), as_json=True, debug=False)
    printed = capsys.readouterr()
    assert "s3cret" not in printed.err + printed.out


def test_a_log_line_and_its_traceback_hold_no_credentials() -> None:
    formatter = RedactingFormatter("%(levelname)s %(message)s")
    error = failure()
    trace = (type(error), error, error.__traceback__)
    record = logging.LogRecord("a", 40, "a.py", 1, "at %s", (SECRET,), trace)
    text = formatter.format(record)
    assert text.startswith("ERROR at http://***@mlflow:5000\n") and "ConnectionError" in text
    assert "s3cret" not in text and "s3cret" not in traceback_of(error)


@pytest.mark.parametrize("where", ["main", "thread"])
def test_an_uncaught_exception_is_printed_without_credentials(where: str) -> None:
    script = (
        "import sys, threading\n"
        "from atelier.logs import log_to\n"
        "log_to(sys.stderr, format='%(message)s')\n"
        f"def work(): raise RuntimeError('at {SECRET}')\n"
        + ("work()" if where == "main" else "threading.Thread(target=work).start()")
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "RuntimeError: at http://***@mlflow:5000" in ended.stderr
    assert "s3cret" not in ended.stderr.replace(script, "")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1:80"),
        ("gateway.example.org", "gateway.example.org:80"),
        ("::1", "[::1]:80"),
        ("fd00::5", "[fd00::5]:80"),
    ],
)
def test_an_ipv6_address_stands_in_brackets(host: str, address: str) -> None:
    assert host_port(host, 80) == address
    assert split_host_port(address) == (host, 80)


@pytest.mark.parametrize(
    "address", ["", ":80", "host", "host:", "host:x", "host:0", "host:70000", "::1:80", "a@b:80"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"write host:port|needs brackets"):
        split_host_port(address)


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("", "127.0.0.1"),
        ("::", "::1"),
        ("fd00::5", "fd00::5"),
        ("gateway", "gateway"),
    ],
)
def test_a_server_on_every_address_is_reached_on_loopback(host: str, found: str) -> None:
    assert reachable(host) == found


needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this kernel has no IPv6")


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


@needs_ipv6
@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", {"127.0.0.1"}),
        ("0.0.0.0", {"127.0.0.1"}),
        ("::1", {"::1"}),
        ("::", {"127.0.0.1", "::1"}),
        ("", {"127.0.0.1", "::1"}),
    ],
)
def test_a_server_listens_on_either_family(host: str, reached: set[str]) -> None:
    with listen(host, 0) as server:
        port = server.getsockname()[1]
        assert {one for one in ("127.0.0.1", "::1") if connects(one, port)} == reached
        with pytest.raises(OSError, match="in use"):
            listen(host, port)


def test_without_ipv6_every_address_is_one_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen("::", 0) as server:
        assert server.family == socket.AF_INET and connects("127.0.0.1", server.getsockname()[1])


def test_whoever_spells_an_address_of_ipv6_puts_it_in_brackets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP", "GRPC"):
        monkeypatch.delenv(f"ATELIER_TRITON_{name}_PORT", raising=False)
    place = pod_identity(Pod(name="pod", namespace="a", uid="u", ip="fd00::5"), AgentSettings())
    assert (place.address, place.grpc) == ("[fd00::5]:8080", "[fd00::5]:9000")
    ports = TritonSettings(host="::1", http_port=1, grpc_port=2, metrics_port=3)
    server = TritonServer(Home(tmp_path), tmp_path, ports)
    assert (server.http_url, server.grpc_url) == ("http://[::1]:1", "[::1]:2")
    options = server._command(Runtime(Path("tritonserver"), None))
    assert {"--http-address=ipv6:::1", "--grpc-address=[::1]"} <= set(options)
    for host, spelt in (("::1", "[::1]"), ("::", "[::1]"), ("0.0.0.0", "127.0.0.1")):
        addresses = Addresses(gateway=1, http=2, grpc=3, metrics=4, host=host)
        assert addresses.to_json(gateway=True)["gateway"] == f"http://{spelt}:1"
    given = {"home": tmp_path, "database_url": "sqlite:///keys.db"}
    settings = GatewaySettings.model_validate({**given, "triton_url": "grpc://[fd00::5]:8001"})
    assert settings.triton_url == "[fd00::5]:8001"
    with pytest.raises(ValueError, match="needs brackets"):
        GatewaySettings.model_validate({**given, "triton_url": "grpc://fd00::5:8001"})


def test_errors_keep_what_is_no_text() -> None:
    assert BadInput("a", 1).args == ("a", 1)
