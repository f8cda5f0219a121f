"""What a real API server and a real KServe say to the charts and k8s/: schemas, webhooks, Pod
Security, the pods that come out, Helm's way back.

Nothing runs in the pods: that is the cluster tier's. Run by `make charts`.
"""

import copy
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.charts import kserve
from tests.charts.cases import ADAPTER, CASES, PLATFORM, ROOT, case_id
from tests.charts.helm import Helm, Object, program
from tests.charts.restricted import refusals_of_container, refusals_of_pod
from tests.cluster.apiserver import ADMIN, ApiServer, missing, until
from tests.cluster.local.tools import chart

NAMESPACE = "atelier-production"
DEFINITIONS = ("kserve-crd", "kueue")


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
    if why := missing() or kserve.missing():
        pytest.skip(why)
    server = ApiServer(tmp_path_factory.mktemp("apiserver"))
    controller = None
    try:
        server.start()
        made = Cluster(server, helm)
        for name in DEFINITIONS:
            text = helm("template", name, chart(name), "--include-crds")
            made.kubectl("apply", "--server-side", "-f", "-", objects=definitions(text))
        made.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=60s")
        folder = tmp_path_factory.mktemp("kserve")
        controller = kserve.KServe(server, server.kubeconfig(ADMIN), helm, folder)
        controller.start(lambda objects: made.kubectl("apply", "-f", "-", objects=objects))
        for file in ("namespaces", "priorities", "storage", "queues", "training"):
            said = made.kubectl("apply", "--validate=strict", "-f", f"{ROOT}/k8s/{file}.yaml")
            assert "Warning" not in said
        yield made
    finally:
        if controller is not None:
            controller.stop()
        server.stop()


def definitions(text: str) -> list[Object]:
    """The custom resources in a chart's text, without the webhooks that convert them."""
    found = [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]  # two megabytes
    kept = [one for one in found if one["kind"] == "CustomResourceDefinition"]
    for one in kept:
        one["spec"].pop("conversion", None)
    return kept


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_every_object_is_taken_without_a_warning(cluster, helm, case):
    made, release, file, more = case
    objects = helm.template(made, release, file, *more)
    objects = [one for one in objects if one["kind"] != "HTTPRoute"]  # the Gateway API is not there
    said = cluster.try_out(objects)
    assert said.count("(server dry run)") == len(objects)
    assert "Warning" not in said


@pytest.fixture(scope="module")
def predictors(cluster, tmp_path_factory) -> dict[str, Object]:
    """The pods that KServe makes of the platform on GPUs and its two canaries, by pool, as they
    are admitted."""
    values = yaml.safe_load((PLATFORM / "ci/gpu.yaml").read_text())
    values["gateway"].pop("httpRoute")  # the Gateway API is not there
    values["serving"].pop("runtimeClassName")  # nor NVIDIA's
    file = tmp_path_factory.mktemp("values") / "gpu.yaml"
    file.write_text(yaml.safe_dump(values))
    cluster.helm("upgrade", "--install", "atelier", PLATFORM, "--values", file)
    names = ("get", "deployments", "--namespace", NAMESPACE, "-o", "json")
    selected = (*names, "-l", "serving.kserve.io/inferenceservice=atelier")
    until(lambda: len(json.loads(cluster.kubectl(*selected))["items"]) == 3)
    found = {}
    for one in json.loads(cluster.kubectl(*selected))["items"]:
        template = one["spec"]["template"]
        meta = {**template["metadata"], "name": one["metadata"]["name"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}
        words = ("create", "--dry-run=server", "--namespace", NAMESPACE, "-o", "json", "-f", "-")
        admitted = json.loads(cluster.kubectl(*words, objects=[pod]))
        found[meta["labels"]["atelier.dev/pool"]] = admitted
    return found


def container(pod: Object, name: str) -> Object:
    every = [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]
    return next(one for one in every if one["name"] == name)


def variables(pod: Object) -> dict[str, str | None]:
    engine = container(pod, "kserve-container")
    return {one["name"]: one.get("value") for one in engine["env"]}


def test_the_predictors_pods_are_restricted_as_kserve_makes_them(predictors):
    assert predictors.keys() == {"stable", "next", "vnext"}
    for pool, pod in predictors.items():
        whys = [*refusals_of_pod(pod["spec"])]
        for one in [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]:
            whys += [f"{pool}: {one['name']} {why}" for why in refusals_of_container(one)]
        assert whys == []


def test_the_base_comes_from_our_storage_initializer(predictors):
    for pool, base in {"stable": "2", "next": "2", "vnext": "3"}.items():
        fetch = container(predictors[pool], "storage-initializer")
        assert fetch["command"] == ["python", "-m", "services.storage"]
        assert fetch["args"] == [f"mlflow://bases/{base:0>64}", "/mnt/models"]
        assert {"configMapKeyRef": {"name": "atelier-platform", "key": "MLFLOW_TRACKING_URI"}} in [
            one.get("valueFrom") for one in fetch["env"]
        ]
        mounts = {
            one["mountPath"]
            for one in container(predictors[pool], "kserve-container")["volumeMounts"]
        }
        assert {"/mnt/models", "/var/lib/atelier", "/tmp", "/dev/shm"} <= mounts


def test_canaries_are_laid_over_the_stable_engine(predictors):
    stable, following, vnext = (variables(predictors[pool]) for pool in ("stable", "next", "vnext"))
    changed = {"ATELIER_PRECISION": "bf16", "ATELIER_BACKEND": "tensorrt"}
    changed["ATELIER_COMPILED"] = "/var/lib/atelier/compiled"
    assert following == {**stable, **changed}
    assert vnext == stable
    assert {"fetch-vae", "fetch-compiled"} <= {
        one["name"] for one in predictors["next"]["spec"]["initContainers"]
    }
    for name in ("kserve-container", "agent", "fetch-vae"):
        assert container(predictors["next"], name)["image"].endswith("bb")
        assert container(predictors["stable"], name)["image"].endswith("aa")


def test_no_token_but_the_agents(predictors):
    for pod in predictors.values():
        volumes = {one["name"] for one in pod["spec"]["volumes"] if "projected" in one}
        assert volumes == {"token"}
        holders = [
            one["name"]
            for one in [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]
            if any(mount["name"] in volumes for mount in one["volumeMounts"])
        ]
        assert holders == ["agent"]


def test_admission_refuses_what_is_not_restricted(cluster, predictors):
    """The namespace does enforce it, or the tests above would say nothing."""
    meta = {"name": "unrestricted", "labels": {}}
    pod = {**copy.deepcopy(predictors["stable"]), "metadata": meta}
    pod["spec"]["containers"][0].pop("securityContext")
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
