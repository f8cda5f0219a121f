"""Trainings as Jobs: evicted and resumed bit for bit, found again instead of repeated."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from atelier.files import sha256_file
from atelier.policy import Policy
from atelier.registry import Registry
from tests.cluster.e2e.platform import ROOT, Platform
from tests.cluster.local import kubectl
from tests.cluster.local.settings import Settings

RECIPE = ROOT / "examples/thor-cat/recipe.yaml"
SCORERS = ROOT / "models/miniature/scorers"
ENVIRONMENT = "e2e"
EVICTED_AT = 120  # steps, of the recipe's 300: between two checkpoints


class Trainings:
    """A namespace that trains, and `atelier submit` to it."""

    def __init__(self, platform: Platform, image: str, claim: str):
        self.platform = platform
        self.namespace = f"{platform.namespace}-training"
        self._image = image
        self._claim = claim

    def kube(self, *words: str, stdin: str | None = None) -> str:
        """kubectl in this namespace."""
        words = ("--namespace", self.namespace, *words)
        return kubectl.kubectl(self.platform.kubeconfig, *words, stdin=stdin)

    def prepare(self, volume: Path | None) -> None:
        """What k8s/README.md asks an administrator for, and a claim for checkpoints."""
        objects = [kubectl.restricted_namespace(self.namespace)]
        for file in ("training.yaml", "priorities.yaml"):
            for one in yaml.safe_load_all((ROOT / "k8s" / file).read_text()):
                if "namespace" in one["metadata"]:
                    one["metadata"]["namespace"] = self.namespace
                objects.append(one)
        kubectl.apply(self.platform.kubeconfig, objects + self._storage(volume))
        address = self.platform.mlflow
        self._make("secret", "generic", "atelier-mlflow", f"--from-literal={_URI}={address}")
        policy = Policy.load()
        scorers = {
            kind: self.platform.atelier("scorer", "import", str(SCORERS / kind))["uri"]
            for kind in ("clip", "dino")
        }
        said = {**policy.model_dump(mode="json"), "scorers": scorers, "seeds": policy.seeds[:2]}
        text = yaml.safe_dump(json.loads(json.dumps(said)))
        self._make("configmap", f"policy-{ENVIRONMENT}", f"--from-literal=policy.yaml={text}")

    def submit(self, recipe: Path, *more: str) -> subprocess.Popen[str]:
        """`atelier submit`, begun."""
        words = ["submit", str(recipe), "--namespace", self.namespace, "--image", self._image]
        words += ["--environment", ENVIRONMENT, "--volume", self._claim]
        words += ["--cpu", "500m", "--memory", "6Gi", "--json", *more]
        told = {"MLFLOW_TRACKING_URI": self.platform.mlflow}
        told["KUBECONFIG"] = str(self.platform.kubeconfig)
        return subprocess.Popen(
            [sys.executable, "-m", "commands", *words],
            env={**os.environ, **told},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pods(self, adapter: str) -> list[Any]:
        """The pods of an adapter's Job, ended ones too."""
        words = ("get", "pods", "-l", f"atelier.dev/adapter={adapter}", "-o", "json")
        found = json.loads(self.kube(*words))["items"]
        return sorted(found, key=lambda one: str(one["metadata"]["creationTimestamp"]))

    def step(self, adapter: str) -> int:
        """The last step that the newest pod has told."""
        running = [one for one in self.pods(adapter) if one["status"]["phase"] == "Running"]
        if not running:
            return 0
        said = self.kube("logs", running[-1]["metadata"]["name"])
        steps = re.findall(r"step (\d+)/", said)
        return int(steps[-1]) if steps else 0

    def evict(self, pod: str) -> None:
        """As a drained node does."""
        meta = {"name": pod, "namespace": self.namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.kube("create", "--raw", path, "-f", "-", stdin=json.dumps(body))

    def weights(self, adapter: str, folder: Path) -> str:
        """The sha256 of adapter.safetensors of the only version there is, as MLflow has it."""
        registry = Registry(self.platform.mlflow)
        (version,) = registry.versions(adapter)
        package = registry.fetch(adapter, version.version, folder / f"{adapter}-package")
        return sha256_file(package.path / "adapter.safetensors")

    def _storage(self, volume: Path | None) -> list[Any]:
        meta = {"name": self._claim, "namespace": self.namespace}
        spec: dict[str, Any] = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "5Gi"}},
        }
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta}
        if volume is None:
            return [claim | {"spec": spec}]
        name = f"{self.namespace}-{self._claim}"
        held = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "5Gi"},
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "",
                "hostPath": {"path": str(volume)},
            },
        }
        return [held, claim | {"spec": spec | {"storageClassName": "", "volumeName": name}}]

    def _make(self, *words: str) -> None:
        made = self.kube("create", *words, "--dry-run=client", "-o", "yaml")
        kubectl.apply(self.platform.kubeconfig, [yaml.safe_load(made)])


_URI = "MLFLOW_TRACKING_URI"


@pytest.fixture(scope="module")
def trainings(
    platform: Platform, shipped: Mapping[str, str], request: pytest.FixtureRequest
) -> Iterator[Trainings]:
    made = Trainings(platform, shipped["atelier-train"], "checkpoints")
    volume = None
    if not os.environ.get("KUBECONFIG"):
        local: Settings = request.getfixturevalue("local")
        volume = local.home / "checkpoints"
        volume.mkdir(exist_ok=True)
        volume.chmod(0o777)  # Kubernetes gives a host's folder to nobody
    made.prepare(volume)
    yield made
    made.kube("delete", "namespace", made.namespace, "--wait=false")


def named(folder: Path, adapter: str) -> Path:
    """The demo's recipe for an adapter of another name: the same training, another Job."""
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["adapter"] = adapter
    recipe["base"]["model"] = str((ROOT / recipe["base"]["model"]).resolve())
    for stage in recipe["stages"]:
        stage["dataset"]["path"] = str(RECIPE.parent / stage["dataset"]["path"])
    file = folder / adapter / "recipe.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(recipe))
    return file


def finished(process: subprocess.Popen[str], seconds: float) -> Any:
    """What `atelier submit --follow` answers."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, f"{out[-2000:]}\n{err[-4000:]}"
    return json.loads(out)


@pytest.mark.timeout(1800)
def test_an_evicted_training_goes_on_bit_for_bit(
    trainings: Trainings, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    began = time.monotonic()
    following = trainings.submit(named(tmp_path, "evicted"), "--follow")
    wait = trainings.platform.wait_for
    wait(
        lambda: trainings.step("evicted") >= EVICTED_AT or following.poll() is not None,
        f"step {EVICTED_AT}",
        900,
    )
    (first,) = trainings.pods("evicted")
    trainings.evict(first["metadata"]["name"])
    finished(following, 900)  # it follows the Job, not the pod
    record_property("evicted training, s", round(time.monotonic() - began))
    pods = {one["metadata"]["name"] for one in trainings.pods("evicted")}
    assert len(pods | {first["metadata"]["name"]}) == 2

    began = time.monotonic()
    finished(trainings.submit(named(tmp_path, "unbroken"), "--follow"), 900)
    record_property("unbroken training, s", round(time.monotonic() - began))
    assert trainings.weights("evicted", tmp_path) == trainings.weights("unbroken", tmp_path)

    again = finished(trainings.submit(tmp_path / "evicted" / "recipe.yaml", "--follow"), 300)
    assert again["job"] is None  # found, not repeated
