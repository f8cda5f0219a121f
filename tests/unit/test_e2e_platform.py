"""What the cluster tests' platform asks of the cluster that it is put on, without one."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.e2e.platform import Platform
from tests.cluster.e2e.volumes import MINE, Volumes
from tests.cluster.local import kubectl
from tests.cluster.local.trouble import ClusterTroubleError


def platform() -> Platform:
    images = {"atelier-serve": "registry/atelier-serve@sha256:0"}
    return Platform(Path("kubeconfig"), "e2e-1", Path("base"), images, {}, Volumes())


def test_mlflow_may_be_called_by_any_address_of_the_clusters_services(monkeypatch):
    monkeypatch.setattr(kubectl, "kubectl", lambda *words, **more: "172.20.0.1")
    assert platform().hosts() == "172.*"


@pytest.mark.parametrize("labels", [{}, {"labels": {"app.kubernetes.io/part-of": "atelier"}}])
def test_a_cluster_whose_pods_fetch_by_somebodys_own_is_left_alone(monkeypatch, labels):
    def answer(kubeconfig: Path, *words: str, **more: Any) -> str:
        assert "get" in words
        return json.dumps({"metadata": {"name": "atelier-mlflow", **labels}})

    monkeypatch.setattr(kubectl, "kubectl", answer)
    with pytest.raises(ClusterTroubleError, match="did not make"):
        platform().install()


def test_what_an_earlier_run_left_is_taken_over(monkeypatch):
    left = {"metadata": {"labels": {MINE: "e2e-0"}}}
    monkeypatch.setattr(kubectl, "kubectl", lambda *words, **more: json.dumps(left))
    platform().spare_storage()
    monkeypatch.setattr(kubectl, "kubectl", lambda *words, **more: "")
    platform().spare_storage()
    assert platform().storage()["metadata"]["labels"][MINE] == "e2e-1"
