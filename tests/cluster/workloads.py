"""Objects the cluster's own tests make: pods of the probe, as "restricted" as a pod can be."""

from typing import Any

POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
SMALL = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}}


def container(image: str, *args: str, name: str = "probe", **more: Any) -> dict[str, Any]:
    """A container that runs the probe."""
    return {
        "name": name,
        "image": image,
        "args": list(args),
        "resources": SMALL,
        "securityContext": SECURITY,
        **more,
    }


def server(namespace: str, image: str, name: str = "files") -> list[dict[str, Any]]:
    """A Deployment that serves the page `name.txt`, whose text is `name`, and its Service."""
    label = {"app": name}
    volume = {"name": "page", "configMap": {"name": name}}
    serves = container(
        image,
        "serve",
        ":8080",
        "/page",
        readinessProbe={"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        volumeMounts=[{"name": "page", "mountPath": "/page"}],
    )
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": POD_SECURITY,
        "containers": [serves],
        "volumes": [volume],
    }
    page = _object("v1", "ConfigMap", namespace, name, data={f"{name}.txt": name})
    template = {"metadata": {"labels": label}, "spec": pod}
    spec = {"selector": {"matchLabels": label}, "template": template}
    deployment = _object("apps/v1", "Deployment", namespace, name, spec=spec)
    ports = [{"port": 80, "targetPort": 8080}]
    service = _object("v1", "Service", namespace, name, spec={"selector": label, "ports": ports})
    return [page, deployment, service]


def job(
    namespace: str, name: str, *containers: dict[str, Any], labels: dict[str, str] | None = None
) -> dict[str, Any]:
    """A Job that is tried once."""
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": POD_SECURITY,
        "containers": list(containers),
    }
    spec = {"backoffLimit": 0, "template": {"spec": pod}}
    made = _object("batch/v1", "Job", namespace, name, spec=spec)
    made["metadata"]["labels"] = labels or {}
    return made


def _object(api: str, kind: str, namespace: str, name: str, **body: Any) -> dict[str, Any]:
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        **body,
    }
