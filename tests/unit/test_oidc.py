"""A workflow's way into a cluster: the plugin that a kubeconfig names, against a real server."""

import json
import os
import subprocess
import threading
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from commands.main import app

ROOT = Path(__file__).resolve().parents[2]
URL, TOKEN = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"


class Actions(ThreadingHTTPServer):
    """Gives a token for the audience that is asked for, to whoever holds the request's token."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def variables(self) -> dict[str, str]:
        return {URL: f"http://127.0.0.1:{self.server_port}/token?api-version=2", TOKEN: "request"}


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        allowed = self.headers["Authorization"] == "Bearer request"
        self.send_response(200 if allowed else 401)
        self.end_headers()
        query = parse_qs(urlsplit(self.path).query)
        assert query["api-version"] == ["2"]
        token = jwt({"aud": query["audience"][0], "exp": 1_800_000_000})
        self.wfile.write(json.dumps({"value": token} if allowed else {}).encode())

    def log_message(self, *_: object) -> None:
        pass


def jwt(claims: dict[str, Any]) -> str:
    """Unsigned: who verifies it is the API server."""
    parts = ({"alg": "none"}, claims)
    encoded = (urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return ".".join([*encoded, ""])


@pytest.fixture
def actions() -> Iterator[Actions]:
    server = Actions()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def workflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The environment of a step, and its folder."""
    for name in ("KUBECONFIG", URL, TOKEN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ATELIER_CLUSTER", "https://api.example:6443")
    monkeypatch.setenv("RUNNER_TEMP", str(tmp_path))
    monkeypatch.setenv("GITHUB_ENV", str(tmp_path / "env"))
    return tmp_path


def test_the_plugin_of_the_kubeconfig_gives_a_token_of_the_job(
    workflow: Path, actions: Actions, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in actions.variables.items():
        monkeypatch.setenv(name, value)
    said = CliRunner().invoke(app, ["login", "--audience", "my-cluster"])
    assert said.exit_code == 0, said.output
    assert (workflow / "env").read_text() == f"KUBECONFIG={workflow / 'kubeconfig'}\n"
    written = (workflow / "kubeconfig").read_text()
    assert "request" not in written  # no credential lies in it
    (user,) = json.loads(written)["users"]
    plugin = user["user"]["exec"]
    command = [plugin["command"], *plugin["args"]]
    env = dict(os.environ)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    credential = json.loads(done.stdout)
    assert credential["status"] == {
        "token": jwt({"aud": "my-cluster", "exp": 1_800_000_000}),
        "expirationTimestamp": "2027-01-15T08:00:00Z",
    }
    env[TOKEN] = "another"
    refused = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 3 and refused.stderr.startswith("atelier: Actions gives no OIDC")


def test_a_job_that_may_have_no_token_is_told_before_anything_is_written(workflow: Path) -> None:
    said = CliRunner().invoke(app, ["login"])
    assert said.exit_code == 2 and "id-token: write" in said.stderr
    assert not list(workflow.iterdir())


def test_a_runner_with_its_own_way_in_keeps_it(
    workflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/etc/kubeconfig")
    said = CliRunner().invoke(app, ["login", "--json"])
    assert json.loads(said.stdout) == {"kubeconfig": "/etc/kubeconfig"}
    assert not list(workflow.iterdir())
