"""Has a node pull the images while its cluster still comes up: the pull takes longer than that."""

import time

from tests.cluster.images import build as images
from tests.cluster.local import kubectl
from tests.cluster.local.settings import Settings
from tests.cluster.local.trouble import ClusterTroubleError

# One after another, as they are needed.
FIRST = ("atelier-serve", "atelier-postgres", "atelier-train")


def pull_ahead(settings: Settings, seconds: float = 120.0) -> None:
    """Push every image to the local cluster's registry, and start a pod of each that ends at once.

    Whatever needs an image later finds it, or waits for the same pull. ClusterTroubleError where
    the node does not become ready in time.
    """
    deadline = time.monotonic() + seconds
    while not _ready(settings):
        if time.monotonic() > deadline:
            raise ClusterTroubleError(f"no node was ready in {seconds:.0f} s")
        time.sleep(0.5)
    pushed = images.push(settings.registry)
    kubectl.apply(settings.kubeconfig, [_pod(name, pushed[name]) for name in FIRST])


def _ready(settings: Settings) -> bool:
    words = ("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=1s")
    try:
        kubectl.kubectl(settings.kubeconfig, *words)
        kubectl.kubectl(settings.kubeconfig, "get", "serviceaccount", "default")
    except ClusterTroubleError:
        return False
    return True


def _pod(name: str, image: str) -> dict[str, object]:
    container = {"name": "true", "image": image, "command": ["true"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"pull-{name}", "namespace": "default"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [container],
        },
    }
