"""kubectl and Helm, as the administrator of a cluster."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.local.shell import run
from tests.cluster.local.tools import program


def kubectl(kubeconfig: Path, *words: str, stdin: str | None = None, seconds: float = 300) -> str:
    """What kubectl says. ClusterTroubleError with its last words when it fails."""
    command = [str(program("kubectl")), "--kubeconfig", str(kubeconfig), *words]
    return run(command, stdin=stdin, seconds=seconds)


def template(chart: Path, name: str, namespace: str, values: dict[str, Any]) -> list[Any]:
    """A chart's objects, custom resource definitions included."""
    words = ["template", name, str(chart), "--namespace", namespace, "--include-crds"]
    text = run([str(program("helm")), *words, "--values", "-"], stdin=yaml.safe_dump(values))
    # Definitions are long: libyaml reads them in a tenth of the time.
    return [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]


def push_chart(chart: Path, registry: str, folder: Path) -> str:
    """A chart in a registry that speaks plain HTTP: its address there, by digest."""
    helm = str(program("helm"))
    run([helm, "package", str(chart), "--destination", str(folder)])
    (packed,) = folder.glob(f"{chart.name}-*.tgz")
    place = f"oci://{registry}/charts"
    # What it pushed it tells among its messages, which are its standard error.
    said = run(["sh", "-c", '"$@" 2>&1', "sh", helm, "push", str(packed), place, "--plain-http"])
    digest = said.rpartition("Digest: ")[2].strip()
    return f"{place}/{chart.name}@{digest}"


def apply(kubeconfig: Path, objects: Iterable[Any]) -> None:
    """Make or change `objects`; what is as it should be is left alone."""
    # On the server's side: KServe's definitions are too large for the annotation of the other way.
    words = ["apply", "--server-side", "--force-conflicts", "-f", "-"]
    together = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    kubectl(kubeconfig, *words, stdin=json.dumps(together))


def restricted_namespace(name: str) -> dict[str, Any]:
    """A namespace that refuses every pod that asks for more than it needs."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def wait_for_deployment(kubeconfig: Path, namespace: str, name: str, seconds: int = 300) -> None:
    """Until all its pods are ready."""
    words = ["rollout", "status", f"deployment/{name}", "-n", namespace, f"--timeout={seconds}s"]
    kubectl(kubeconfig, *words, seconds=seconds + 30)
