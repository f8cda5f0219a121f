"""What a real API server says to the charts and k8s/: schemas, Pod Security, Helm's way back.

KServe's and Kueue's custom resources are there, their controllers are not: what KServe makes of an
InferenceService is put together here, and by itself in the cluster tier. Run by `make charts`.
"""

import copy
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.charts.cases import ADAPTER, CASES, PLATFORM, ROOT, case_id
from tests.charts.helm import Helm, Object, program
from tests.cluster.apiserver import ADMIN, ApiServer, missing
from tests.cluster.local.tools import chart

NAMESPACE = "atelier-production"
DEFINITIONS = ("kserve-crd", "kueue")
POD_FIELDS = (  # of a predictor; not its RuntimeClass, which a cluster with GPUs has
    "serviceAccountName",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "terminationGracePeriodSeconds",
    "securityContext",
    "topologySpreadConstraints",
    "priorityClassName",
    "nodeSelector",
    "tolerations",
)


class Cluster:
    """An API server with everything of k8s/ applied."""

    def __init__(self, server: ApiServer, helm: Helm):
        self._kubectl = program("kubectl")
        self._kubeconfig = server.kubeconfig(ADMIN)
        self._helm = helm

    def kubectl(self, *words: str, objects: list[Object] | None = None) -> str:
        """What kubectl says, warnings included; AssertionError where it fails."""
        done = subprocess.run(
            [self._kubectl, "--kubeconfig", self._kubeconfig, *words],
            check=False,
            input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects or []}),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def helm(self, *words: str | Path) -> str:
        """Helm on this cluster."""
        return self._helm(*words, "--namespace", NAMESPACE, "--kubeconfig", self._kubeconfig)

    def try_out(self, objects: list[Object]) -> str:
        """Have objects judged as if they were applied; unknown fields are errors."""
        words = ("apply", "--dry-run=server", "--validate=strict", "--namespace", NAMESPACE)
        return self.kubectl(*words, "-f", "-", objects=objects)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, helm: Helm) -> Iterator[Cluster]:
    if why := missing():
        pytest.skip(why)
    if not all(chart(name).exists() for name in DEFINITIONS):
        pytest.skip("KServe's and Kueue's charts are not there; `make cluster-tools` brings them")
    server = ApiServer(tmp_path_factory.mktemp("apiserver"))
    try:
        server.start()
        made = Cluster(server, helm)
        for name in DEFINITIONS:
            text = helm("template", name, chart(name), "--include-crds")
            made.kubectl("apply", "--server-side", "-f", "-", objects=definitions(text))
        made.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=60s")
        for file in ("namespaces", "priorities", "storage", "queues", "training"):
            said = made.kubectl("apply", "--validate=strict", "-f", f"{ROOT}/k8s/{file}.yaml")
            assert "Warning" not in said
        yield made
    finally:
        server.stop()


def definitions(text: str) -> list[Object]:
    """The custom resources in a chart's text, without the webhooks that convert them."""
    found = [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]  # two megabytes
    kept = [one for one in found if one["kind"] == "CustomResourceDefinition"]
    for one in kept:
        one["spec"].pop("conversion", None)
    return kept


def predictors_pods(objects: list[Object]) -> Iterator[Object]:
    """The pods that KServe makes of an InferenceService and its canaries, near enough: the
    runtime's container, our sidecar, and a storage initializer, in the predictor's pod."""
    by_kind = {one["kind"]: one for one in objects}
    service, runtime = by_kind["InferenceService"], by_kind["ServingRuntime"]
    initializer = yaml.safe_load((ROOT / "k8s/storage.yaml").read_text())["spec"]["container"]
    stable = service["spec"]["predictor"]
    models = {"name": "kserve-provision-location", "mountPath": "/mnt/models"}
    for over in ({}, *(one["predictor"] for one in service["spec"].get("canary", ()))):
        predictor = copy.deepcopy({**stable, **over})
        engine, fetch = copy.deepcopy([runtime["spec"]["containers"][0], initializer])
        engine["image"] = predictor["model"].get("image", engine["image"])
        engine["volumeMounts"].append({**models, "readOnly": True})
        fetch["volumeMounts"].append(models)
        spec = {field: predictor[field] for field in POD_FIELDS if field in predictor}
        spec["initContainers"] = [*predictor.get("initContainers", ()), fetch]
        spec["containers"] = [engine, *predictor["containers"]]
        spec["volumes"] = [*predictor["volumes"], {"name": models["name"], "emptyDir": {}}]
        labels = {**service["metadata"]["labels"], **predictor["labels"]}
        meta = {"name": f"predictor-{over.get('name', 'stable')}", "labels": labels}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_every_object_is_taken_without_a_warning(cluster, helm, case):
    made, release, file, more = case
    objects = helm.template(made, release, file, *more)
    objects = [one for one in objects if one["kind"] != "HTTPRoute"]  # the Gateway API is not there
    said = cluster.try_out(objects)
    assert said.count("(server dry run)") == len(objects)
    assert "Warning" not in said


@pytest.mark.parametrize("name", ["miniature", "gpu", "least"])
def test_the_predictors_pods_are_admitted(cluster, helm, name):
    found = list(predictors_pods(helm.template(PLATFORM, "atelier", PLATFORM / f"ci/{name}.yaml")))
    assert len(found) == (3 if name == "gpu" else 1)
    said = cluster.try_out(found)
    assert said.count("(server dry run)") == len(found)
    assert "Warning" not in said


def test_admission_refuses_what_is_not_restricted(cluster, helm):
    """The namespace does enforce it, or the tests above would say nothing."""
    (pod,) = predictors_pods(helm.template(PLATFORM, "atelier", PLATFORM / "ci/least.yaml"))
    pod["spec"]["initContainers"][-1].pop("securityContext")
    with pytest.raises(AssertionError, match=r'violates PodSecurity "restricted:latest"'):
        cluster.try_out([pod])


def test_a_rollback_brings_the_release_back_byte_for_byte(cluster):
    def release() -> Object:
        words = ("get", "configmap", "release-thor-cat", "--namespace", NAMESPACE, "-o", "yaml")
        found = yaml.safe_load(cluster.kubectl(*words))
        return {"data": found["data"], "labels": found["metadata"]["labels"]}

    def upgrade(name: str) -> Object:
        words = ("upgrade", "--install", "thor-cat", ADAPTER, "--no-hooks")
        cluster.helm(*words, "--values", ADAPTER / f"ci/{name}.yaml")
        return release()

    first, second = upgrade("first"), upgrade("canary")
    assert first != second
    cluster.helm("rollback", "thor-cat", "--no-hooks")
    assert release() == first
