"""One environment of Atelier on the cluster under test, and what a person does with it."""

import base64
import io
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from atelier.adapter.package import MANIFEST, Package
from atelier.data.release import Pin
from atelier.stores.base_files import base_digest
from atelier.stores.registry import Registry
from tests.cluster.e2e.volumes import MINE, Volumes
from tests.cluster.local import kubectl
from tests.cluster.local.shell import run
from tests.cluster.local.tools import program
from tests.cluster.local.trouble import ClusterTroubleError

ROOT = Path(__file__).resolve().parents[3]
STORAGE = "clusterstoragecontainers.serving.kserve.io"
VALUES = ROOT / "charts/atelier/ci/miniature.yaml"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
Pixels = NDArray[np.uint8]
Values = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """What came back for one request."""

    pixels: Pixels  # [height, width, 3]
    digest: str  # of the adapter that the answer names
    backend: str = ""  # what ran the UNet, as the picture's own metadata has it


@dataclass
class Platform:
    """A namespace with the platform in it. `image` is the one that serves, by digest."""

    kubeconfig: Path
    namespace: str
    base: Path
    images: Mapping[str, str]  # by name: REGISTRY/NAME@DIGEST
    charts: Mapping[str, str]  # by name: oci://REGISTRY/charts/NAME@DIGEST
    volumes: Volumes
    key: str = ""
    values: Values = field(default_factory=dict)
    pins: dict[str, list[tuple[Pin, Package]]] = field(default_factory=dict)

    # The platform

    def install(self) -> None:
        """Everything, from an empty cluster with KServe to a gateway that answers.

        ClusterTroubleError, with nothing made, where the cluster's pods fetch by somebody's own.
        """
        self.spare_storage()
        kubectl.apply(self.kubeconfig, [namespace(self.namespace, "atelier-production")])
        claims = ("data-atelier-postgresql-0", "atelier-mlflow")
        kept = [one for claim in claims for one in self.volumes.of(self.namespace, claim)]
        kubectl.apply(self.kubeconfig, [self.storage(), *kept])
        if not self.there("secret", "atelier-postgresql"):  # the database keeps its first one
            self.secret("atelier-postgresql", password=secrets.token_hex(16))
        repository, _, pinned = self.images["atelier-serve"].partition("@")
        storage = {"persistent": True, "size": "5Gi"}
        self.values = {
            "image": {"repository": repository, "digest": pinned},
            "serving": {"base": base_digest(self.base)},
            "mlflow": {"storage": storage, "allowedHosts": self.hosts()},
            "postgresql": {"image": self.images["atelier-postgres"], "storage": storage},
        }
        self.helm_upgrade(wait=False)
        self.rolled_out("deployment/atelier-mlflow")
        self.rolled_out("statefulset/atelier-postgresql")
        self.atelier("base", "import", str(self.base))
        self.key = self.atelier("keys", "create", "e2e")["key"]
        self.secret("atelier-smoke", key=self.key)
        self.helm_upgrade(wait=True)
        self.serves()

    def hosts(self) -> str:
        """How this cluster's Services are called by their addresses, which the tests do."""
        words = ("get", "service", "kubernetes", "--namespace", "default")
        address = self.kube(*words, "-o", "jsonpath={.spec.clusterIP}", namespaced=False)
        return f"{address.partition('.')[0]}.*"

    def spare_storage(self) -> None:
        """One is the whole cluster's: in place of another's, its pods would fetch by our image."""
        words = (STORAGE, "atelier-mlflow", "--ignore-not-found", "-o", "json")
        found = self.kube("get", *words, namespaced=False)
        if found and MINE not in json.loads(found)["metadata"].get("labels", {}):
            raise ClusterTroubleError(
                "the cluster has a ClusterStorageContainer atelier-mlflow that these tests did not "
                "make: a platform may need it. Test on another cluster, or delete it first."
            )

    def storage(self) -> Any:
        """k8s/storage.yaml with the image that serves, ours to remove."""
        found = yaml.safe_load((ROOT / "k8s/storage.yaml").read_text())
        found["metadata"]["labels"][MINE] = self.namespace
        found["spec"]["container"]["image"] = self.images["atelier-serve"]
        return found

    def helm_upgrade(self, *, wait: bool) -> None:
        """`helm upgrade --install` of the platform, as `values` have it now."""
        words = ["upgrade", "--install", "atelier", self.charts["atelier"], "--plain-http"]
        words += ["--values", str(VALUES)]
        words += ["--wait=legacy", "--timeout", "15m"] if wait else []
        self.helm(*words, "--values", "-", values=self.values)

    def serves(self, seconds: int = 300) -> None:
        """Until KServe's SDK calls the InferenceService ready."""
        words = [str(self.kubeconfig), self.namespace, "atelier", str(seconds)]
        run([sys.executable, "-m", "tests.cluster.e2e.kserve_ready", *words], seconds=seconds + 60)

    def whole(self) -> None:
        """Until just the replicas that were asked for are there, and ready."""
        wanted = self.of("inferenceservice", "atelier")["spec"]["predictor"]["minReplicas"]

        def alone() -> bool:
            label = ("-l", "app.kubernetes.io/component=serving")
            pods = json.loads(self.kube("get", "pods", *label, "-o", "json"))["items"]
            return len(pods) == wanted and all(map(_is_ready, pods))

        self.wait_for(alone, "the platform's own replicas, and no others")

    # Adapters

    def register(self, folder: Path) -> Pin:
        """A package as the adapter's next version in the cluster's MLflow."""
        package = Package.open(folder)
        version = Registry(self.mlflow).register(package, run_id=None)
        pin = Pin(version=version, digest=package.digest)
        self.pins.setdefault(package.manifest.name, []).append((pin, package))
        return pin

    def release(self, name: str, version: int) -> None:
        """`helm upgrade --install` of an adapter's release, its hook included."""
        self.upgrade(name, self.release_values(name, version))

    def upgrade(self, name: str, values: Values) -> None:
        """The same, with values of one's own."""
        words = ("upgrade", "--install", name, self.charts["adapter"], "--plain-http")
        self.helm(*words, "--values", "-", values=values)

    def release_values(self, name: str, version: int) -> Values:
        """Values of charts/adapter for a version that is registered."""
        known = {pin.version: (pin, package) for pin, package in self.pins[name]}
        pin, package = known[version]
        repository, _, pinned = self.images["atelier-serve"].partition("@")
        return {
            "adapter": name,
            "base": package.manifest.base.digest,
            "version": pin.version,
            "digest": pin.digest,
            "manifests": {pin.digest: (package.path / MANIFEST).read_text()},
            "hook": {"image": {"repository": repository, "digest": pinned}},
        }

    def rollback(self, name: str) -> None:
        """`helm rollback` of an adapter's release, its hook included."""
        self.helm("rollback", name)

    def history(self, name: str) -> list[Any]:
        """The revisions of an adapter's release, oldest first, as Helm has them."""
        found: list[Any] = json.loads(self.helm("history", name, "--output", "json"))
        return found

    def alias(self, name: str, environment: str = "production") -> int | None:
        """The version that the environment's alias names in MLflow."""
        found = Registry(self.mlflow).aliased(name, environment)
        return found.version if found else None

    # Asking

    def draw(
        self,
        prompt: str,
        seed: int,
        *,
        adapter: str | None = None,
        gateway: str | None = None,
        key: str | None = None,
        **more: Any,
    ) -> Picture:
        """One picture through the gateway; urllib.error.HTTPError where it says no.

        Without the gateway's address, the API server is asked for it.
        """
        body = {"prompt": prompt, "seed": seed, "steps": 2, "fill_trigger": False, **more}
        if adapter:
            body["adapters"] = [{"name": adapter}]
        request = urllib.request.Request(
            f"{gateway or self.gateway}/generate_image",
            data=json.dumps(body).encode(),
            headers={"X-API-Key": key or self.key, "Content-Type": "application/json"},
        )
        with DIRECT.open(request, timeout=120) as answer:
            found = json.load(answer)
        image = Image.open(io.BytesIO(base64.b64decode(found["images"][0]["png"])))
        digests = [one["digest"] for one in found["adapters"]]
        about = json.loads(image.info["atelier"])
        pixels = np.asarray(image.convert("RGB"))
        return Picture(pixels, digests[0] if digests else "", about["backend"])

    def usage(self) -> int:
        """Pictures that the key was charged for."""
        request = urllib.request.Request(
            f"{self.gateway}/api_key_usage", headers={"X-API-Key": self.key}
        )
        with DIRECT.open(request, timeout=30) as answer:
            return int(json.load(answer)["images"])

    @property
    def gateway(self) -> str:
        """The gateway's address."""
        return f"http://{self.service('atelier-gateway')}"

    @property
    def mlflow(self) -> str:
        """MLflow's address."""
        return f"http://{self.service('atelier-mlflow')}"

    @property
    def database(self) -> str:
        """Keys and usage, from this machine: the Service has no address of its own."""
        (pod,) = self.pods("postgresql")
        password = self.of("secret", "atelier-postgresql")["data"]["password"]
        word = base64.b64decode(password).decode()
        return f"postgresql://atelier:{word}@{pod['status']['podIP']}:5432/atelier"

    def atelier(self, *words: str) -> Any:
        """What the command of this checkout answers as JSON, with this platform's services."""
        told = {"MLFLOW_TRACKING_URI": self.mlflow, "ATELIER_DATABASE_URL": self.database}
        command = [sys.executable, "-m", "commands", *words, "--json"]
        done = subprocess.run(
            command,
            check=False,
            env={**os.environ, **told},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"atelier {' '.join(words)}: {done.stderr[-2000:]}"
        return json.loads(done.stdout)

    # Kubernetes

    def kube(self, *words: str, stdin: str | None = None, namespaced: bool = True) -> str:
        """kubectl in this namespace."""
        place = ("--namespace", self.namespace) if namespaced else ()
        return kubectl.kubectl(self.kubeconfig, *place, *words, stdin=stdin, seconds=900)

    def helm(self, *words: str, values: Values | None = None) -> str:
        """Helm in this namespace; `values` are its standard input."""
        command = [str(program("helm")), "--kubeconfig", str(self.kubeconfig)]
        command += ["--namespace", self.namespace, *words]
        return run(command, stdin=yaml.safe_dump(values) if values else None, seconds=1200)

    def secret(self, name: str, **texts: str) -> None:
        """Make or change a Secret."""
        meta = {"name": name, "namespace": self.namespace}
        made = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": texts}
        kubectl.apply(self.kubeconfig, [made])

    def there(self, kind: str, name: str) -> bool:
        """Whether an object is there."""
        return bool(self.kube("get", kind, name, "--ignore-not-found", "-o", "name"))

    def of(self, kind: str, name: str) -> Any:
        """An object."""
        return json.loads(self.kube("get", kind, name, "-o", "json"))

    def pods(self, component: str) -> list[Any]:
        """The pods of one part that run and are not ending."""
        words = ("get", "pods", "-l", f"app.kubernetes.io/component={component}", "-o", "json")
        found = json.loads(self.kube(*words))["items"]
        return [
            one
            for one in found
            if one["status"].get("phase") == "Running"
            and "deletionTimestamp" not in one["metadata"]
        ]

    def identities(self) -> dict[str, Sequence[int]]:
        """Every pod of the platform and how often its containers were restarted."""
        return {
            one["metadata"]["name"]: [c["restartCount"] for c in one["status"]["containerStatuses"]]
            for part in ("serving", "gateway")
            for one in self.pods(part)
        }

    def service(self, name: str) -> str:
        """HOST:PORT of a Service."""
        spec = self.of("service", name)["spec"]
        return f"{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def rolled_out(self, what: str, seconds: int = 600) -> None:
        """Until all pods of a Deployment or StatefulSet are ready."""
        self.kube("rollout", "status", what, f"--timeout={seconds}s")

    def wait_for(
        self,
        condition: Callable[[], object],
        what: str,
        seconds: float = 120.0,
        *,
        pause: float = 1.0,
    ) -> float:
        """How long it took; fails where it does not come about. What is looked at more often than
        each second takes its processor from what it waits for."""
        began = time.monotonic()
        while not condition():
            waited = time.monotonic() - began
            assert waited < seconds, f"no sign of {what} in {seconds:.0f} s"
            time.sleep(pause)
        return time.monotonic() - began


def namespace(name: str, like: str) -> Values:
    """Another one of those that k8s/namespaces.yaml makes."""
    text = (ROOT / "k8s/namespaces.yaml").read_text()
    (made,) = [one for one in yaml.safe_load_all(text) if one["metadata"]["name"] == like]
    made["metadata"]["name"] = name
    return dict(made)


def _is_ready(pod: Any) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)


def remove(kubeconfig: Path, namespace: str) -> None:
    """An environment, the namespace that trains beside it, and what of the cluster was for them."""
    both = (namespace, f"{namespace}-training")
    words = ("--wait=false", "--ignore-not-found")
    kubectl.kubectl(kubeconfig, "delete", "namespace", *both, *words)
    mine = f"{MINE} in ({', '.join(both)})"
    kueue = "clusterqueues.kueue.x-k8s.io,resourceflavors.kueue.x-k8s.io"
    kinds = f"persistentvolumes,{kueue},{STORAGE}"
    kubectl.kubectl(kubeconfig, "delete", kinds, "-l", mine, *words)
