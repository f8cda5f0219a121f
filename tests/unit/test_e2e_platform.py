"""What the cluster tests' platform asks of the cluster that it is put on, without one."""

from pathlib import Path

from tests.cluster.e2e.platform import Platform
from tests.cluster.e2e.volumes import Volumes
from tests.cluster.local import kubectl


def platform() -> Platform:
    return Platform(Path("kubeconfig"), "e2e-1", Path("base"), {}, {}, Volumes())


def test_mlflow_may_be_called_by_any_address_of_the_clusters_services(monkeypatch):
    monkeypatch.setattr(kubectl, "kubectl", lambda *words, **more: "172.20.0.1")
    assert platform().hosts() == "172.*"
