"""Releases as ConfigMaps of a real API server: followed, verified, and known when it is away."""

import json
from pathlib import Path

import pytest
from kubernetes.config import incluster_config

from atelier.data.release import Pin, Release
from atelier.errors import ReleaseError
from atelier.platform import Api, ClusterAway, ClusterRefused, listing, watching
from atelier.platform.api import CONFIG_MAPS, LEASES, Expired
from atelier.stores.environment import Environment
from services.triton.process import free_port
from tests.cluster.api.conftest import Namespace
from tests.cluster.apiserver import until
from tests.gateway import BASE, ONE, TWO

FIRST = Release(adapter="thor-cat", base=BASE, version=1, digest=ONE.digest)
SECOND = FIRST.with_version(Pin(version=2, digest=TWO.digest), "promoted")


@pytest.fixture
def agent(namespace: Namespace, tmp_path: Path) -> Environment:
    """What an agent follows, with the rights of charts/atelier."""
    return watching(namespace.api("agent"), namespace.pod("pod-a"), tmp_path / "kept")


def versions(environment: Environment) -> dict[str, int]:
    return {name: one.version for name, one in environment.releases.read().releases.items()}


def test_releases_come_change_and_go(namespace: Namespace, agent: Environment) -> None:
    assert versions(agent) == {}
    namespace.release(FIRST, ONE)
    until(lambda: versions(agent) == {"thor-cat": 1})
    assert agent.releases.manifest(ONE.digest) == ONE
    namespace.release(SECOND, ONE, TWO)
    until(lambda: versions(agent) == {"thor-cat": 2})
    assert agent.releases.manifest(TWO.digest) == TWO
    assert versions(listing(namespace.api("hook"))) == {"thor-cat": 2}
    namespace.release(FIRST, ONE)  # helm rollback writes the old object again
    until(lambda: versions(agent) == {"thor-cat": 1})
    namespace.retire("thor-cat")
    until(lambda: versions(agent) == {})
    assert agent.releases.read().trouble == ""


def test_a_config_map_that_is_no_release_costs_the_others_nothing(
    namespace: Namespace, agent: Environment
) -> None:
    namespace.release(FIRST, ONE)
    other = json.dumps({"adapter": "other", "base": BASE, "version": 1, "digest": ONE.digest})
    namespace.put("broken", {"release.json": "{"})
    namespace.put("empty", {})
    namespace.put("wrong", {"release.json": other})
    until(lambda: len(agent.releases.read().unreadable) == 3)
    assert versions(agent) == {"thor-cat": 1}
    told = agent.releases.read().unreadable
    assert "release-broken: not a release" in told["broken"]
    assert "has no release.json" in told["empty"]
    assert "contains the release of other" in told["wrong"]


def test_a_manifest_of_another_digest_is_refused(namespace: Namespace, agent: Environment) -> None:
    changed = ONE.model_copy(update={"trigger": "evil"}).canonical().decode()
    said = FIRST.model_dump_json(exclude={"since"})
    manifests = json.dumps({ONE.digest: changed})
    namespace.put("thor-cat", {"release.json": said, "manifests.json": manifests})
    until(lambda: versions(agent) == {"thor-cat": 1})
    with pytest.raises(ReleaseError, match="its digest is different"):
        agent.releases.manifest(ONE.digest)
    assert agent.releases.manifest(TWO.digest) is None


def versions_if_known(environment: Environment) -> dict[str, int] | None:
    """None before the API server has answered: just started, it knows no roles and answers 403."""
    try:
        return versions(environment)
    except ClusterAway:
        return None


def test_what_was_known_outlives_the_api_server_and_the_process(
    namespace: Namespace, agent: Environment, tmp_path: Path
) -> None:
    namespace.release(FIRST, ONE)
    until(lambda: versions(agent) == {"thor-cat": 1})
    server = namespace.server
    server.stop_server()
    try:
        until(lambda: agent.releases.read().trouble)
        assert "does not answer" in agent.releases.read().trouble
        assert versions(agent) == {"thor-cat": 1}
        pod = namespace.pod("pod-a")
        again = watching(namespace.api("agent"), pod, tmp_path / "kept")  # a restarted process
        assert versions(again) == {"thor-cat": 1}
        assert again.releases.manifest(ONE.digest) == ONE
        assert again.releases.read().trouble
        fresh = watching(namespace.api("agent"), pod, tmp_path / "empty")
        with pytest.raises(ClusterAway, match="does not answer"):
            fresh.releases.read()
        with pytest.raises(ClusterAway):
            listing(namespace.api("hook")).releases.read()
    finally:
        server.start_server()
    namespace.release(SECOND, ONE, TWO)
    for one in (agent, again, fresh):
        until(lambda one=one: versions_if_known(one) == {"thor-cat": 2}, 60)
        assert one.releases.read().trouble == ""


def test_a_watch_whose_past_is_forgotten_lists_anew(
    namespace: Namespace, agent: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that the API server no longer has is a 410; so is one made up from long ago."""
    namespace.release(FIRST, ONE)
    real, versions_asked, expired = Api.watch, [], []

    def from_long_ago(self, path, query, version, *, seconds):  # type: ignore[no-untyped-def]
        versions_asked.append("1" if not versions_asked else version)
        try:
            yield from real(self, path, query, versions_asked[-1], seconds=seconds)
        except Expired as error:
            expired.append(str(error))
            raise

    monkeypatch.setattr(Api, "watch", from_long_ago)
    assert versions(agent) == {"thor-cat": 1}
    until(lambda: expired)
    assert "410" in expired[0]
    namespace.release(SECOND, ONE, TWO)
    until(lambda: versions(agent) == {"thor-cat": 2})
    assert agent.releases.read().trouble == ""


def test_rights_are_the_charts_and_no_more(namespace: Namespace) -> None:
    agent, hook = namespace.api("agent"), namespace.api("hook")
    with pytest.raises(ClusterRefused, match="403"):
        agent.delete(CONFIG_MAPS, "release-thor-cat")
    with pytest.raises(ClusterRefused, match="403"):
        agent.get("/api/v1/namespaces/{namespace}/secrets", "any")
    with pytest.raises(ClusterRefused, match="403"):
        hook.delete(CONFIG_MAPS, "release-thor-cat")
    assert hook.list(LEASES)[0] == []


def test_a_pod_finds_it_by_its_service_accounts_token(
    namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = namespace.server
    namespace.release(FIRST, ONE)
    token, certificate = tmp_path / "token", tmp_path / "ca.crt"
    configuration = namespace.api("agent")._client.configuration
    token.write_text(configuration.api_key["authorization"].removeprefix("Bearer "))
    certificate.write_text(Path(configuration.ssl_ca_cert).read_text())
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(certificate))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    monkeypatch.setenv("POD_NAMESPACE", namespace.name)
    api = Api.connect()
    assert [one["metadata"]["name"] for one in api.list(CONFIG_MAPS)[0]] == ["release-thor-cat"]


def test_an_address_where_nobody_listens_is_told(namespace: Namespace) -> None:
    api = namespace.api("agent")
    api._client.configuration.host = f"https://127.0.0.1:{free_port()}"
    with pytest.raises(ClusterAway, match="refused"):
        api.list(CONFIG_MAPS)
