"""The cluster does what Kubernetes, KServe and Kueue promise, before ours relies on it."""

import json
import time
import urllib.request

import pytest

from tests.cluster.conftest import NAMED, Apply, Kubectl
from tests.cluster.local.settings import Settings
from tests.cluster.local.trouble import ClusterTroubleError
from tests.cluster.workloads import POD_SECURITY, container, job, server

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _end(kube: Kubectl, namespace: str) -> str:
    """How the Job `asks` ended: Complete or Failed."""
    words = ["get", "job/asks", "-n", namespace, "-o", "jsonpath={.status.conditions[*].type}"]
    for _ in range(120):
        if found := {"Complete", "Failed"} & set(kube(*words).split()):
            return found.pop()
        time.sleep(1)
    return "it runs still"


def test_a_job_reaches_a_service_by_name(
    kube: Kubectl, apply: Apply, namespace: str, probe: str
) -> None:
    """Scheduling, an image by digest, a Service, DNS, a Job and its logs."""
    apply(*server(namespace, probe))
    kube("rollout", "status", "deployment/files", "-n", namespace, "--timeout=120s")
    url = f"http://files.{namespace}.svc.cluster.local/files.txt"
    apply(job(namespace, "asks", container(probe, "get", url, "30s")))
    assert _end(kube, namespace) == "Complete"
    assert kube("logs", "job/asks", "-n", namespace) == "files"
    pods = json.loads(kube("get", "pods", "-n", namespace, "-o", "json"))["items"]
    digest = probe.partition("@")[2]
    assert {one["status"]["containerStatuses"][0]["imageID"][-71:] for one in pods} == {digest}


def test_exec_runs_in_a_pod(kube: Kubectl, apply: Apply, namespace: str, probe: str) -> None:
    """`kubectl exec`: from the API server through the kubelet into the container."""
    apply(*server(namespace, probe))
    kube("rollout", "status", "deployment/files", "-n", namespace, "--timeout=120s")
    command = ["/probe", "get", "http://127.0.0.1:8080/files.txt"]
    assert kube("exec", "deployment/files", "-n", namespace, "--", *command) == "files"


def test_this_machine_reaches_pods_and_services(
    local: Settings, kube: Kubectl, apply: Apply, namespace: str, probe: str
) -> None:
    """The local cluster needs no port-forward."""
    apply(*server(namespace, probe))
    kube("rollout", "status", "deployment/files", "-n", namespace, "--timeout=120s")
    for kind, field in (("pod", "{.items[0].status.podIP}:8080"), ("service", "")):
        field = field or "{.items[0].spec.clusterIP}:80"
        address = kube("get", kind, "-n", namespace, "-o", f"jsonpath={field}")
        assert _page(f"http://{address}/files.txt") == b"files"


def _page(url: str, seconds: float = 60.0) -> bytes:
    """A page of a Service that is new: a connection from before kube-proxy knew it stays lost."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with DIRECT.open(url, timeout=2) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def test_a_pod_that_asks_for_too_much_is_refused(apply: Apply, namespace: str, probe: str) -> None:
    """Pod Security "restricted" is enforced where the namespace says so."""
    careless = container(probe, "get", "http://files/", securityContext={"privileged": True})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "careless", "namespace": namespace},
        "spec": {"containers": [careless]},
    }
    with pytest.raises(ClusterTroubleError, match='violates PodSecurity "restricted'):
        apply(pod)


def test_a_denied_connection_is_not_made(
    kube: Kubectl, apply: Apply, namespace: str, probe: str
) -> None:
    """A NetworkPolicy, on a cluster whose network enforces them; the local one's does not."""
    apply(*server(namespace, probe))
    apply(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "nobody", "namespace": namespace},
            "spec": {"podSelector": {"matchLabels": {"app": "files"}}, "policyTypes": ["Ingress"]},
        }
    )
    kube("rollout", "status", "deployment/files", "-n", namespace, "--timeout=120s")
    address = kube("get", "pod", "-n", namespace, "-o", "jsonpath={.items[0].status.podIP}")
    apply(job(namespace, "asks", container(probe, "get", f"http://{address}:8080/")))
    end = _end(kube, namespace)
    if end == "Complete" and not NAMED:
        pytest.skip("untested: nothing here enforces NetworkPolicy (tests/cluster/README.md)")
    assert end == "Failed"
    assert "Client.Timeout" in kube("logs", "job/asks", "-n", namespace)


def test_an_inference_service_gets_its_model_by_a_storage_container_of_ours(
    kube: Kubectl, apply: Apply, namespace: str, probe: str
) -> None:
    """KServe in Standard mode: our initializer gets URI and folder, the runtime serves it."""
    scheme = f"probe-{namespace}"
    storage = container(probe, "", name="storage-initializer")
    del storage["args"]
    storage["command"] = ["/probe", "store"]
    apply(
        {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "ClusterStorageContainer",
            "metadata": {"name": scheme},
            "spec": {
                "container": storage,
                "supportedUriFormats": [{"prefix": f"{scheme}://"}],
                "workloadType": "initContainer",
            },
        },
        {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "ServingRuntime",
            "metadata": {"name": "files", "namespace": namespace},
            "spec": {
                "supportedModelFormats": [{"name": "files", "version": "1"}],
                "containers": [
                    container(probe, "serve", ":8080", "/mnt/models", name="kserve-container")
                ],
            },
        },
    )
    predictor = {
        "securityContext": POD_SECURITY,
        "automountServiceAccountToken": False,
        "minReplicas": 1,
        "model": {
            "modelFormat": {"name": "files"},
            "runtime": "files",
            "storageUri": f"{scheme}://a/model",
        },
    }
    try:
        apply(
            {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "metadata": {"name": "model", "namespace": namespace},
                "spec": {"predictor": predictor},
            }
        )
        ready = ["wait", "--for=condition=Ready", "inferenceservice/model", "--timeout=180s"]
        kube(*ready, "-n", namespace)
        url = f"http://model-predictor.{namespace}.svc.cluster.local/uri"
        apply(job(namespace, "asks", container(probe, "get", url, "30s")))
        assert _end(kube, namespace) == "Complete"
        assert kube("logs", "job/asks", "-n", namespace) == f"{scheme}://a/model"
    finally:
        kube("delete", "clusterstoragecontainer", scheme, "--wait=false")


def test_a_queue_with_quota_for_one_runs_one(
    kube: Kubectl, apply: Apply, namespace: str, probe: str
) -> None:
    """Kueue: of two Jobs that each want the whole quota, one waits until the other is gone.

    They are made suspended, as ours are: else a pod may run before Kueue has seen its Job, and what
    is ready shows nothing.
    """
    quota = [{"name": "cpu", "nominalQuota": "20m"}, {"name": "memory", "nominalQuota": "1Gi"}]
    group = {
        "coveredResources": [one["name"] for one in quota],
        "flavors": [{"name": namespace, "resources": quota}],
    }
    api = "kueue.x-k8s.io/v1beta2"
    only = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    cluster_queue = {"namespaceSelector": only, "resourceGroups": [group]}
    labels = {"kueue.x-k8s.io/queue-name": "queue"}
    hog = container(probe, "serve", ":8080", "/")
    hog["resources"] = {"requests": {"cpu": "20m", "memory": "16Mi"}}
    try:
        apply(
            {"apiVersion": api, "kind": "ResourceFlavor", "metadata": {"name": namespace}},
            {
                "apiVersion": api,
                "kind": "ClusterQueue",
                "metadata": {"name": namespace},
                "spec": cluster_queue,
            },
            {
                "apiVersion": api,
                "kind": "LocalQueue",
                "metadata": {"name": "queue", "namespace": namespace},
                "spec": {"clusterQueue": namespace},
            },
        )
        for name in ("first", "second"):
            made = job(namespace, name, hog, labels=labels)
            made["spec"]["suspend"] = True
            apply(made)
            time.sleep(1)  # Kueue orders by the time of creation, in whole seconds
        ready = ["wait", "--for=jsonpath={.status.ready}=1", "--timeout=180s", "-n", namespace]
        kube(*ready, "job/first")
        suspended = ["get", "job/second", "-n", namespace, "-o", "jsonpath={.spec.suspend}"]
        assert kube(*suspended) == "true"
        kube("delete", "job/first", "-n", namespace)
        kube(*ready, "job/second")
    finally:
        kube("delete", "clusterqueue,resourceflavor", namespace, "--wait=false")
