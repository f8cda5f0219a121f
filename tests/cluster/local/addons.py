"""What runs on the cluster before anything of ours does: DNS, KServe, Kueue."""

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
    """CoreDNS, as a Deployment."""
    text = Path(__file__).with_name("manifests").joinpath("coredns.yaml").read_text()
    image = _pushed(settings, "coredns", "/coredns")
    filled = Template(text).substitute(image=image, address=settings.dns, domain=DOMAIN)
    apply(settings.kubeconfig, yaml.safe_load_all(filled))
    wait_for_deployment(settings.kubeconfig, "kube-system", "coredns")


def kserve(settings: Settings) -> None:
    """KServe in Standard mode: without Knative, Istio and cert-manager, whose part is ours."""
    config = settings.kubeconfig
    apply(config, [restricted_namespace("kserve")])
    apply(config, template(chart("kserve-crd"), "kserve-crd", "kserve", {}))
    # The controller gives up when it starts before they count.
    _patiently(config, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    image = _pushed(settings, "kserve-controller", "/manager")
    objects = template(chart("kserve-resources"), "kserve", "kserve", KSERVE_VALUES)
    ca = _encoded(settings.pki / "ca.crt")
    kept = [one for one in objects if one["kind"] not in ("Certificate", "Issuer")]
    for one in kept:
        if one["kind"].endswith("WebhookConfiguration"):
            for webhook in one["webhooks"]:
                webhook["clientConfig"]["caBundle"] = ca
        if one["kind"] == "Deployment":
            _ours(one, image)
    apply(config, [_webhook_certificate(settings), *kept])
    wait_for_deployment(config, "kserve", "kserve-controller-manager")
    api = "serving.kserve.io/v1alpha1"
    container = {"name": "kserve-container", "image": image}
    _wait_for_webhook(config, api, "ClusterServingRuntime", {"containers": [container]})


def kueue(settings: Settings) -> None:
    """Kueue, which makes its webhooks' certificates itself."""
    config = settings.kubeconfig
    apply(config, [restricted_namespace("kueue-system")])
    image = _pushed(settings, "kueue", "/manager")
    objects = template(chart("kueue"), "kueue", "kueue-system", {})
    # Its view of queues as an API of its own needs an aggregator, and without one every
    # deletion of a namespace would wait for that API.
    kept = [one for one in objects if one["kind"] != "APIService"]
    for one in kept:
        if one["kind"] == "Deployment":
            _ours(one, image)
        if one["kind"].endswith("WebhookConfiguration"):
            _trainings_only(one)
        if one["metadata"]["name"] == "kueue-manager-config":
            for file, text in one["data"].items():
                one["data"][file] = text.replace("leaderElect: true", "leaderElect: false")
    apply(config, kept)
    wait_for_deployment(config, "kueue-system", "kueue-controller-manager")
    _wait_for_webhook(config, "kueue.x-k8s.io/v1beta2", "ResourceFlavor", {})


ADDONS: dict[str, Callable[[Settings], None]] = {"dns": dns, "kserve": kserve, "kueue": kueue}


def _pushed(settings: Settings, name: str, place: str) -> str:
    image = images.scratch({place: program(name)}, place)
    return images.push(image, settings.registry, f"cluster/{name}")


def _ours(deployment: dict[str, Any], image: str) -> None:
    """Its manager alone, in our image, on a node that is small and may be busy.

    It is one, so it elects no leader: it would end when it cannot renew its lease in time.
    """
    pod = deployment["spec"]["template"]["spec"]
    pod["containers"] = [one for one in pod["containers"] if one["name"] == "manager"]
    (manager,) = pod["containers"]
    manager |= {"image": image, "imagePullPolicy": "IfNotPresent", "resources": {}}
    manager["args"] = [one for one in manager["args"] if one != "--leader-elect"]
    manager["readinessProbe"] |= {"initialDelaySeconds": 1, "periodSeconds": 1, "timeoutSeconds": 5}
    manager["livenessProbe"] |= {"timeoutSeconds": 15, "failureThreshold": 8}


def _trainings_only(webhooks: dict[str, Any]) -> None:
    """As k8s/README.md asks for: a Helm hook's Job must not wait for the queues to be well."""
    for one in webhooks["webhooks"]:
        if one["name"] in ("mjob.kb.io", "vjob.kb.io"):
            one["namespaceSelector"] = {"matchLabels": {"atelier.dev/training": "true"}}


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
    """Until an object that it looks at would be accepted: a ready pod is not yet an address."""
    tried = {"apiVersion": api, "kind": kind, "metadata": {"name": "would-be"}, "spec": spec}
    words = ["create", "--dry-run=server", "-f", "-"]
    _patiently(kubeconfig, *words, stdin=yaml.safe_dump(tried))


def _patiently(kubeconfig: Path, *words: str, stdin: str | None = None) -> None:
    """What cannot be done yet is tried again, for a minute."""
    until = time.monotonic() + 60
    while True:
        try:
            kubectl(kubeconfig, *words, stdin=stdin)
            return
        except ClusterTroubleError:
            if time.monotonic() > until:
                raise
            time.sleep(1)


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def wait_for_node(settings: Settings) -> None:
    """Until the node takes pods."""
    for state in ("create", "condition=Ready"):
        words = ["wait", f"--for={state}", f"node/{NODE}", "--timeout=180s"]
        kubectl(settings.kubeconfig, *words)
