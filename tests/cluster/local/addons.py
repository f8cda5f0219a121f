"""The add-ons of the cluster: DNS, KServe and Kueue."""

import base64
import time
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

import yaml

from tests.cluster.local import images
from tests.cluster.local.kubectl import (
    apply,
    kubectl,
    restricted_namespace,
    template,
    wait_for_deployment,
)
from tests.cluster.local.programs import DOMAIN
from tests.cluster.local.settings import NODE, Settings
from tests.cluster.local.tools import chart, program
from tests.cluster.local.trouble import ClusterTroubleError

KSERVE_VALUES = {
    "kserve": {
        "certManager": {"enabled": False},
        "controller": {
            "deploymentMode": "Standard",
            "gateway": {"disableIstioVirtualHost": True, "disableIngressCreation": True},
        },
    }
}


def dns(settings: Settings) -> None:
    """Install CoreDNS as a Deployment."""
    text = Path(__file__).with_name("manifests").joinpath("coredns.yaml").read_text()
    image = _pushed(settings, "coredns", "/coredns")
    filled = Template(text).substitute(image=image, address=settings.dns, domain=DOMAIN)
    apply(settings.kubeconfig, yaml.safe_load_all(filled))
    wait_for_deployment(settings.kubeconfig, "kube-system", "coredns")


def kserve(settings: Settings) -> None:
    """Install KServe in Standard mode, without Knative and Istio.

    A certificate of the cluster's authority replaces cert-manager.
    """
    config = settings.kubeconfig
    apply(config, [restricted_namespace("kserve")])
    apply(config, template(chart("kserve-crd"), "kserve-crd", "kserve", {}))
    # The controller ends if it starts before the definitions are established.
    _retry(config, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    image = _pushed(settings, "kserve-controller", "/manager")
    objects = template(chart("kserve-resources"), "kserve", "kserve", KSERVE_VALUES)
    ca = _encoded(settings.pki / "ca.crt")
    kept = [item for item in objects if item["kind"] not in ("Certificate", "Issuer")]
    for item in kept:
        if item["kind"].endswith("WebhookConfiguration"):
            for webhook in item["webhooks"]:
                webhook["clientConfig"]["caBundle"] = ca
        if item["kind"] == "Deployment":
            _adapt_deployment(item, image)
    apply(config, [_webhook_certificate(settings), *kept])
    wait_for_deployment(config, "kserve", "kserve-controller-manager")
    api = "serving.kserve.io/v1alpha1"
    container = {"name": "kserve-container", "image": image}
    _wait_for_webhook(config, api, "ClusterServingRuntime", {"containers": [container]})


def kueue(settings: Settings) -> None:
    """Install Kueue, which creates the certificates of its webhooks itself."""
    config = settings.kubeconfig
    apply(config, [restricted_namespace("kueue-system")])
    image = _pushed(settings, "kueue", "/manager")
    objects = template(chart("kueue"), "kueue", "kueue-system", {})
    # Kueue's API for pending workloads needs an aggregator. Without one, every deletion of a
    # namespace would wait for that API.
    kept = [item for item in objects if item["kind"] != "APIService"]
    for item in kept:
        if item["kind"] == "Deployment":
            _adapt_deployment(item, image)
        if item["kind"].endswith("WebhookConfiguration"):
            _trainings_only(item)
        if item["metadata"]["name"] == "kueue-manager-config":
            for file, text in item["data"].items():
                item["data"][file] = text.replace("leaderElect: true", "leaderElect: false")
    apply(config, kept)
    wait_for_deployment(config, "kueue-system", "kueue-controller-manager")
    _wait_for_webhook(config, "kueue.x-k8s.io/v1beta2", "ResourceFlavor", {})


ADDONS: dict[str, Callable[[Settings], None]] = {"dns": dns, "kserve": kserve, "kueue": kueue}


def _pushed(settings: Settings, name: str, path: str) -> str:
    """Push an image that contains a program at `path`, and return its reference."""
    image = images.scratch({path: program(name)}, path)
    return images.push(image, settings.registry, f"cluster/{name}")


def _adapt_deployment(deployment: dict[str, Any], image: str) -> None:
    """Reduce a Deployment to its manager, with our image and probes that suit a busy small node.

    There is only one manager, so it needs no leader election. With one, it would end if it could
    not renew its lease in time.
    """
    pod = deployment["spec"]["template"]["spec"]
    pod["containers"] = [entry for entry in pod["containers"] if entry["name"] == "manager"]
    (manager,) = pod["containers"]
    manager |= {"image": image, "imagePullPolicy": "IfNotPresent", "resources": {}}
    manager["args"] = [arg for arg in manager["args"] if arg != "--leader-elect"]
    manager["readinessProbe"] |= {"initialDelaySeconds": 1, "periodSeconds": 1, "timeoutSeconds": 5}
    manager["livenessProbe"] |= {"timeoutSeconds": 15, "failureThreshold": 8}


def _trainings_only(webhooks: dict[str, Any]) -> None:
    """Restrict the webhooks for Jobs to training namespaces, as k8s/README.md requires.

    Otherwise the Job of a Helm hook would fail while Kueue is unavailable.
    """
    for webhook in webhooks["webhooks"]:
        if webhook["name"] in ("mjob.kb.io", "vjob.kb.io"):
            webhook["namespaceSelector"] = {"matchLabels": {"atelier.dev/training": "true"}}


def _webhook_certificate(settings: Settings) -> dict[str, Any]:
    pair = {"tls.crt": "kserve-webhook.crt", "tls.key": "kserve-webhook.key"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": "kserve-webhook-server-cert", "namespace": "kserve"},
        "data": {key: _encoded(settings.pki / file) for key, file in pair.items()},
    }


def _wait_for_webhook(kubeconfig: Path, api: str, kind: str, spec: dict[str, Any]) -> None:
    """Wait until the webhook accepts an object: a ready pod may have no endpoint yet."""
    trial = {"apiVersion": api, "kind": kind, "metadata": {"name": "would-be"}, "spec": spec}
    arguments = ["create", "--dry-run=server", "-f", "-"]
    _retry(kubeconfig, *arguments, stdin=yaml.safe_dump(trial))


def _retry(kubeconfig: Path, *arguments: str, stdin: str | None = None) -> None:
    """Run kubectl until it succeeds, for up to a minute."""
    until = time.monotonic() + 60
    while True:
        try:
            kubectl(kubeconfig, *arguments, stdin=stdin)
            return
        except ClusterTroubleError:
            if time.monotonic() > until:
                raise
            time.sleep(1)


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def wait_for_node(settings: Settings) -> None:
    """Wait until the node is ready for pods."""
    for state in ("create", "condition=Ready"):
        arguments = ["wait", f"--for={state}", f"node/{NODE}", "--timeout=180s"]
        kubectl(settings.kubeconfig, *arguments)
