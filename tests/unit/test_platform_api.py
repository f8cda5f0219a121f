"""Which cluster is meant: KUBECONFIG's, or the one that a pod runs in."""

import json
from pathlib import Path

import pytest

from atelier.errors import BadInput
from atelier.platform import Api

POD, NAMED = "https://10.0.0.1:443", "https://named.example:6443"


def kubeconfig(path: Path) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "it", "cluster": {"server": NAMED}}],
        "users": [{"name": "it", "user": {}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "current-context": "it",
    }
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(autouse=True)
def _in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a service account's token, as a runner on Kubernetes has one."""
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    for name in ("TOKEN", "CERT"):
        (tmp_path / name).write_text("a-token")
        place = f"kubernetes.config.incluster_config.SERVICE_{name}_FILENAME"
        monkeypatch.setattr(place, str(tmp_path / name))


def test_a_pod_works_in_its_own_cluster() -> None:
    assert Api.connect("there").host == POD


def test_kubeconfig_goes_before_the_pods_own_account_as_with_helm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config")))
    assert Api.connect("there").host == NAMED


def test_a_kubeconfig_that_is_not_there_does_not_mean_the_pods_own_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match=r"no cluster: KUBECONFIG .*nowhere"):
        Api.connect("there")
