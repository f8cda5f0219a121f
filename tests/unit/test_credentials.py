"""An address with user and password, in every place where one becomes text for somebody else."""

import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from atelier.ci.git import Repository
from atelier.ci.github import GitHub
from atelier.contract.replica import HeldAdapter, Replica, ReplicaFolder
from atelier.contract.shards import Versions
from atelier.errors import AtelierError, BadInput, Unavailable
from atelier.stores.registry import Registry
from commands.errors import report
from pipelines.train.tracking.sinks import MlflowSink
from services.agent.fetcher import PackageFetcher
from services.agent.plan import Named
from services.gateway.database import Database, DatabaseAway, parse_url
from services.gateway.settings import GatewaySettings
from tests.gateway import BASE, Client, manifest_of, serving
from tests.repository import Scratch

USER, PASSWORD = "anna-of-us", "p%40ss-s3cret"
LEFT = (USER, PASSWORD, "s3cret")  # also as it reads decoded


def clean(text: str) -> bool:
    """Whether nothing of the credentials is left."""
    return not any(one in text for one in LEFT)


@pytest.fixture
def address() -> Iterator[str]:
    """Of a server that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"{USER}:{PASSWORD}@127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_the_registry_s_errors_and_tracebacks(
    address: str, scheme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Unavailable, match=rf"MLflow at {scheme}://\*\*\*@127") as caught:
        Registry(f"{scheme}://{address}")
    report(caught.value, as_json=True, debug=True)
    printed = capsys.readouterr()
    assert "Traceback" in printed.err and clean(printed.err + printed.out)


@pytest.mark.parametrize(
    "userinfo", ["anna-of-us:s3cret/a", "anna-of-us:s3cret#a", "anna-of-us:s3cret a"]
)
def test_an_address_that_is_not_percent_encoded(
    userinfo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadInput, match="percent-encode") as caught:
        Registry(f"http://{userinfo}@127.0.0.1:5000")
    report(caught.value, as_json=True, debug=True)
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if "Registry(f" not in line]
    assert clean("\n".join(lines) + printed.out.replace(" a@", "@"))


def test_what_an_agent_reports(address: str, tmp_path: Path) -> None:
    fetching = PackageFetcher(lambda one: Registry(f"http://{address}").version(one.name, 1))
    fetching.want([Named("thor-cat", 1, "sha256:a")])
    end = time.monotonic() + 60
    while not fetching.problems and time.monotonic() < end:
        fetching.collect()
        time.sleep(0.01)
    assert "MLflow at http://***@127.0.0.1" in fetching.problems["sha256:a"]
    assert clean(str(fetching.problems))
    fetching.close()


def test_the_tags_by_which_places_name_each_other(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opened:
        """What a reachable server gives a sink."""

        uri = f"http://{address}"

        def run_url(self, run_id: str) -> str | None:
            return None

    sink = MlflowSink(Opened.uri, "experiment", "run", "run-1")
    monkeypatch.setattr(sink, "_open", lambda: (Opened(), "run-1"))
    assert clean(str(sink.identity())) and "http://***@127.0.0.1" in sink.identity()["mlflow.uri"]


def test_a_remote_that_git_cannot_reach(address: str, tmp_path: Path) -> None:
    scratch = Scratch.make(tmp_path / "clone")
    scratch.write("README.md", "hello")
    scratch.commit()
    scratch.git("remote", "add", "origin", f"http://{address}/owner/name.git")
    with pytest.raises(Unavailable, match="unable to access") as caught:
        Repository(scratch.root).fetch("main")
    assert clean(str(caught.value))


def test_a_forge_that_cannot_be_reached(address: str) -> None:
    with pytest.raises(AtelierError) as caught:
        GitHub(f"http://{address}", "owner/name", "ghs_s3cret").comment(1, "lint", "")
    assert clean(str(caught.value))


def test_the_database_s_errors(address: str) -> None:
    database = Database(f"postgresql://{address}/keys?sslpassword=s3cret")
    assert clean(str(database))
    with pytest.raises(DatabaseAway, match=r"postgresql\+psycopg://\*\*\*@127") as caught:
        database.prepare()
    assert clean(str(caught.value))
    with pytest.raises(BadInput, match="percent-encode") as refused:
        parse_url("postgresql://anna-of-us:a@s3cret@host/keys")
    assert clean(str(refused.value))


@pytest.mark.parametrize(
    "changes",
    [
        {"database_url": "mysql://anna-of-us:s3cret@host/keys"},
        {"triton_url": "http://anna-of-us:s3cret@host:8000"},
        {"triton_url": "grpc://anna-of-us:s3cret@host:8001"},
        {"port": "anna-of-us:s3cret"},
    ],
)
def test_settings_that_are_refused(changes: dict[str, str], tmp_path: Path) -> None:
    given = {"home": tmp_path, "database_url": "sqlite:///keys.db", **changes}
    with pytest.raises(ValueError) as caught:
        GatewaySettings.model_validate(given)
    assert clean(str(caught.value))


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Client]:
    """A gateway where `thumbs-up` is released and a replica could not fetch it."""
    with serving(tmp_path) as client:
        other = manifest_of(3, name="thumbs-up")
        client.stage.release(other, 3)
        why = f"thumbs-up@3: MLflow at http://{USER}:{PASSWORD}@mlflow:5000 does not answer"
        held = HeldAdapter(
            name="thumbs-up", version=3, digest=other.digest, state="loading", error=why
        )
        told = ReplicaFolder(client.stage.home.replicas).list()["one"]
        replica = told.model_copy(
            update={
                "adapters": Versions([*told.adapters, held]),
                "heartbeat": time.time(),
                "error": why,
            }
        )
        ReplicaFolder(client.stage.home.replicas).put(Replica.model_validate(replica))
        yield client


def test_clients_get_a_coarse_reason_and_the_operator_the_whole(
    waiting: Client, caplog: pytest.LogCaptureFixture
) -> None:
    coarse = (
        "version 3 on replica one: not fetched from the registry yet; "
        "the operator's log has the cause"
    )
    with caplog.at_level(logging.WARNING, "services.gateway"):
        waiting.http.app.state.parts.releases.look()  # type: ignore[attr-defined]
    assert "thumbs-up@3: MLflow at" in caplog.text  # formatted by atelier.logs in a process
    refused = waiting.make(adapter="thumbs-up")
    assert refused.status_code == 503
    assert refused.json()["detail"] == f"adapter thumbs-up is not ready: {coarse}"
    listed = waiting.http.get("/v1/models", headers={"X-API-Key": waiting.key})
    by_name = {one["id"]: one for one in listed.json()["data"]}
    assert by_name["thumbs-up"]["trouble"] == coarse
    assert (
        clean(refused.text + listed.text) and "mlflow" not in (refused.text + listed.text).lower()
    )
    assert by_name["base"]["digest"] == BASE
