"""A namespace that trains, beside a platform."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from atelier.data.policy import Policy
from atelier.files import sha256_file
from atelier.stores.registry import Registry
from tests.cluster.e2e.platform import ROOT, Platform, namespace
from tests.cluster.e2e.volumes import MINE
from tests.cluster.local import kubectl

RECIPE = ROOT / "examples/thor-cat/recipe.yaml"
SCORERS = ROOT / "models/miniature/scorers"
ENVIRONMENT = "e2e"
CPU = "500m"  # of a training, and of its queue
NAME = "kubernetes.io/metadata.name"
_URI = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Said:
    """A command that runs; what it tells meanwhile is in `log`."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def answer(self, seconds: float = 300) -> Any:
        """What it answers in the end, as JSON."""
        out, _ = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, f"{out[-2000:]}\n{self.log.read_text()[-4000:]}"
        return json.loads(out)


class Trainings:
    """A namespace that trains, and `atelier submit` to it."""

    def __init__(self, platform: Platform, image: str, claim: str):
        self.platform = platform
        self.namespace = f"{platform.namespace}-training"
        self.image = image
        self.claim = claim

    def kube(self, *words: str, stdin: str | None = None) -> str:
        """kubectl in this namespace."""
        words = ("--namespace", self.namespace, *words)
        return kubectl.kubectl(self.platform.kubeconfig, *words, stdin=stdin)

    def prepare(self) -> None:
        """What k8s/README.md asks an administrator for, and a claim for checkpoints."""
        objects = [namespace(self.namespace, "atelier-training")]
        for file in ("training.yaml", "priorities.yaml", "queues.yaml"):
            for one in yaml.safe_load_all((ROOT / "k8s" / file).read_text()):
                if "namespace" in one["metadata"]:
                    one["metadata"]["namespace"] = self.namespace
                objects.append(self._queue(one))
        objects += self.platform.volumes.of(self.namespace, self.claim)
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": self.claim, "namespace": self.namespace},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "5Gi"}},
            },
        }
        kubectl.apply(self.platform.kubeconfig, [*objects, claim])
        address = self.platform.mlflow
        self._make("secret", "generic", "atelier-mlflow", f"--from-literal={_URI}={address}")
        policy = Policy.load()
        scorers = {
            kind: self.platform.atelier("scorer", "import", str(SCORERS / kind))["uri"]
            for kind in ("clip", "dino")
        }
        said = {
            **policy.model_dump(mode="json"),
            "scorers": scorers,
            "seeds": {"first": 2, "most": 8},
        }
        text = yaml.safe_dump(json.loads(json.dumps(said)))
        self.judge_by(ENVIRONMENT, text)

    def judge_by(self, environment: str, policy: str) -> None:
        """An environment's policy, where Jobs find it."""
        self._make("configmap", f"policy-{environment}", f"--from-literal=policy.yaml={policy}")

    def submit(self, recipe: Path, *more: str) -> Said:
        """`atelier submit`, begun."""
        words = ["submit", str(recipe), "--environment", ENVIRONMENT, *more]
        return self.run(*words, log=recipe.with_suffix(".log"))

    def run(self, *words: str, log: Path) -> Said:
        """A command of this checkout that makes a Job here, begun."""
        words = (*words, "--namespace", self.namespace, "--image", self.image)
        words = (*words, "--volume", self.claim, "--cpu", CPU, "--memory", "6Gi", "--json")
        told = {_URI: self.platform.mlflow, "KUBECONFIG": str(self.platform.kubeconfig)}
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "commands", *words],
                env={**os.environ, **told},
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        return Said(process, log)

    def until(self, said: Said, condition: Callable[[], object], what: str) -> None:
        """Something comes about before a command ends; looked for seldom, as the looks cost the
        training its processor."""
        self.platform.wait_for(lambda: said.ended or condition(), what, 600, pause=3.0)
        assert not said.ended, f"it ended before {what}: {said.answer()}"

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

    def node(self, adapter: str) -> str | None:
        """Where its newest pod is; None while it waits."""
        found: str | None = self.pods(adapter)[-1]["spec"].get("nodeName")
        return found

    def suspended(self, adapter: str) -> bool:
        """Whether its Job waits in its queue."""
        words = ("get", "jobs", "-l", f"atelier.dev/adapter={adapter}")
        return "true" in self.kube(*words, "-o", "jsonpath={.items[*].spec.suspend}")

    def waits(self, adapter: str) -> str:
        """Why its newest pod has no node; empty where it has one, or there is no pod."""
        conditions = [c for one in self.pods(adapter)[-1:] for c in one["status"]["conditions"]]
        return " ".join(str(c.get("message", "")) for c in conditions if c["status"] == "False")

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
        package = registry.fetch(version, folder / f"{adapter}-package")
        return sha256_file(package.path / "adapter.safetensors")

    def _queue(self, one: Any) -> Any:
        """Of the queues, pools of this namespace's own, with room for one training in each."""
        if not one["apiVersion"].startswith("kueue.x-k8s.io/"):
            return one
        kind, meta, spec = one["kind"], one["metadata"], one.get("spec", {})
        if kind in ("ClusterQueue", "ResourceFlavor"):
            meta["name"] = self._own(meta["name"])
            meta["labels"][MINE] = self.namespace
        if kind == "LocalQueue":
            spec["clusterQueue"] = self._own(spec["clusterQueue"])
        if kind == "ClusterQueue":
            spec["namespaceSelector"] = {"matchLabels": {NAME: self.namespace}}
            for flavor in spec["resourceGroups"][0]["flavors"]:
                flavor["name"] = self._own(flavor["name"])
                for resource in flavor["resources"]:
                    resource["nominalQuota"] = {"cpu": CPU, "nvidia.com/gpu": 1}.get(
                        resource["name"], resource["nominalQuota"]
                    )
        return one

    def _own(self, name: str) -> str:
        return f"{name}-{self.namespace}"

    def _make(self, *words: str) -> None:
        made = self.kube("create", *words, "--dry-run=client", "-o", "yaml")
        kubectl.apply(self.platform.kubeconfig, [yaml.safe_load(made)])


def named(folder: Path, adapter: str) -> Path:
    """The demo's recipe for an adapter of another name: the same training, another Job."""
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["adapter"] = adapter
    recipe["base"]["model"] = str((ROOT / recipe["base"]["model"]).resolve())
    del recipe["validation"]  # pictures on the way, for people
    for stage in recipe["stages"]:
        stage["dataset"]["path"] = str(RECIPE.parent / stage["dataset"]["path"])
    recipe["look_alikes"] = str(RECIPE.parent / recipe["look_alikes"])
    file = folder / adapter / "recipe.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(recipe))
    return file
