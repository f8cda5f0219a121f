"""Run kubectl and Helm with the administrator's rights."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.local.shell import run
from tests.cluster.local.tools import program


def kubectl(
    kubeconfig: Path, *arguments: str, stdin: str | None = None, seconds: float = 300
) -> str:
    """Run kubectl and return its output. Raises ClusterTroubleError with the end of stderr."""
    command = [str(program("kubectl")), "--kubeconfig", str(kubeconfig), *arguments]
    return run(command, stdin=stdin, seconds=seconds)


def template(chart: Path, name: str, namespace: str, values: dict[str, Any]) -> list[Any]:
    """Return a chart's objects, including custom resource definitions."""
    arguments = ["template", name, str(chart), "--namespace", namespace, "--include-crds"]
    text = run([str(program("helm")), *arguments, "--values", "-"], stdin=yaml.safe_dump(values))
    # The definitions are long; libyaml reads them ten times faster.
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def push_chart(chart: Path, registry: str, folder: Path) -> str:
    """Push a chart to a registry over plain HTTP, and return its address by digest."""
    helm = str(program("helm"))
    run([helm, "package", str(chart), "--destination", str(folder)])
    (archive,) = folder.glob(f"{chart.name}-*.tgz")
    address = f"oci://{registry}/charts"
    push = [helm, "push", str(archive), address, "--plain-http"]
    output = run(["sh", "-c", '"$@" 2>&1', "sh", *push])  # Helm prints the digest to stderr
    digest = output.rpartition("Digest: ")[2].strip()
    return f"{address}/{chart.name}@{digest}"


def apply(kubeconfig: Path, objects: Iterable[Any]) -> None:
    """Create or change `objects`."""
    # Server-side: KServe's definitions are too large for the annotation of a client-side apply.
    arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"]
    item_list = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    kubectl(kubeconfig, *arguments, stdin=json.dumps(item_list))


def restricted_namespace(name: str) -> dict[str, Any]:
    """Return a namespace that enforces Pod Security "restricted"."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def wait_for_deployment(kubeconfig: Path, namespace: str, name: str, seconds: int = 300) -> None:
    """Wait until all pods of a Deployment are ready, for up to `seconds`."""
    arguments = [
        "rollout",
        "status",
        f"deployment/{name}",
        "-n",
        namespace,
        f"--timeout={seconds}s",
    ]
    kubectl(kubeconfig, *arguments, seconds=seconds + 30)
