"""One API server for this folder, a namespace for each test, and what Helm writes into it."""

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from atelier.data.manifest import Manifest
from atelier.data.release import Release
from atelier.platform import Api, Pod
from atelier.platform.api import CONFIG_MAPS
from atelier.stores.registry import Registry
from tests.cluster.apiserver import ApiServer, chart_rules, missing
from tests.promoted import package

USERS = ("agent", "gateway", "hook")
PARTS = {"agent": "serving", "gateway": "gateway", "hook": "hook"}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A running API server."""
    if why := missing():
        pytest.skip(why)
    made = ApiServer(tmp_path_factory.mktemp("apiserver"))
    try:
        made.start(*USERS)
        yield made
    finally:
        made.stop()


@dataclass(frozen=True)
class Namespace:
    """One environment, with the roles that charts/atelier gives its processes."""

    server: ApiServer
    name: str

    def api(self, user: str) -> Api:
        """A client, as `agent`, `gateway`, `hook` or `admin`."""
        return self.server.api(self.name, user)

    def pod(self, name: str, ip: str = "127.0.0.1") -> Pod:
        """Who a process in a pod is."""
        return Pod(name, self.name, str(uuid.uuid4()), ip)

    def put(self, name: str, data: Mapping[str, str]) -> None:
        """Write a release's ConfigMap, as Helm does."""
        labels = {"atelier.dev/adapter": name}
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"release-{name}", "labels": labels},
            "data": dict(data),
        }
        self.api("admin").apply(CONFIG_MAPS, body)

    def release(self, release: Release, *manifests: Manifest) -> None:
        """Write a release."""
        texts = {one.digest: one.canonical().decode() for one in manifests}
        said = release.model_dump_json(exclude={"since", "revision", "reason"})
        self.put(release.adapter, {"release.json": said, "manifests.json": json.dumps(texts)})

    def retire(self, name: str) -> None:
        """Take a release away, as `helm uninstall` does."""
        self.api("admin").delete(CONFIG_MAPS, f"release-{name}")


@pytest.fixture
def namespace(server: ApiServer) -> Namespace:
    """An empty one."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    server.namespace(name)
    for user, part in PARTS.items():
        server.allow(name, user, chart_rules(part))
    return Namespace(server, name)


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """A registry's database with two versions of `thor-cat`, and their digests."""
    folder = tmp_path_factory.mktemp("registry")
    registry, digests = Registry(f"sqlite:///{folder / 'mlflow.db'}"), {}
    for seed in (1, 2):
        made = package(folder / str(seed), "thor-cat", seed)
        digests[registry.register(made, run_id=None)] = made.digest
    return folder / "mlflow.db", digests
