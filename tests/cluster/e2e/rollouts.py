"""A checkout whose files say what serves, and `atelier promote` and its like in it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from atelier.adapter.package import Package
from atelier.data.declaration import Declarations
from atelier.data.policy import Policy
from atelier.data.release import Pin
from atelier.stores.registry import Registry
from pipelines.evaluate import attest, evaluate
from tests.cluster.e2e.platform import ROOT, Platform
from tests.cluster.local.tools import program
from tests.cluster.local.trouble import ClusterTroubleError
from tests.tiny import tiny_adapter

PICTURES = ROOT / "examples/thor-cat/images"
ENVIRONMENT = "production"


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    data: Any  # its answer
    told: str  # what it said on the way


class Checkout:
    """What a workflow has: files of an environment, and credentials in the environment."""

    def __init__(self, platform: Platform, root: Path):
        folder = root / "k8s/environments" / ENVIRONMENT
        (folder / "adapters").mkdir(parents=True)
        (folder / "policy.yaml").write_text(yaml.safe_dump(lenient()))
        (folder / "platform.yaml").write_text(yaml.safe_dump({"environment": ENVIRONMENT}))
        self.root, self._platform = root, platform
        self.files = Declarations(root, ENVIRONMENT)
        self.policy = Policy.load(self.files.policy)

    def candidate(self, name: str, seed: int) -> tuple[Pin, Package]:
        """A version that is registered, judged, and accepted."""
        folder = self.root / "packages" / f"{name}-{seed}"
        package = Package.open(tiny_adapter(self._platform.base, folder, name=name, seed=seed))
        registry = Registry(self._platform.mlflow)
        version = registry.register(package, run_id=None)
        output = self.root / "judged" / f"{name}-{seed}"
        judged = evaluate(
            package,
            self.policy,
            base=self._platform.base,
            training_pictures=PICTURES,
            output=output,
            cache=self.root / "cache",
        )
        assert judged.accepted, judged.reasons
        attest(registry, registry.version(name, version), judged, output)
        return Pin(version=version, digest=package.digest), package

    def atelier(self, *words: str) -> Said:
        """A verb with this environment, to its end."""
        process = self._start(*words, "--json")
        out, told = process.communicate(timeout=600)
        return Said(process.returncode, json.loads(out) if out else None, told)

    def killed(self, *words: str, at: str, after: float | None = None) -> str:
        """The same, ended by SIGKILL at a step, with the Helm that it runs: `after` that many
        seconds in which Helm has had a revision of the adapter pending."""
        process = self._start(*words)
        assert process.stderr is not None
        told = ""
        for line in process.stderr:
            told += line
            if line.rstrip().endswith(f": {at}"):
                break
        if after is not None:
            self._platform.wait_for(lambda: self._pending(words[1]), "Helm", pause=0.1)
            time.sleep(after)
        os.killpg(process.pid, signal.SIGKILL)
        told += process.communicate()[1]
        return told

    def _pending(self, name: str) -> bool:
        try:
            history = self._platform.history(name)
        except ClusterTroubleError:  # it has none yet
            return False
        return str(history[-1]["status"]).startswith("pending-")

    def _start(self, *words: str) -> subprocess.Popen[str]:
        place = ("--environment", ENVIRONMENT, "--namespace", self._platform.namespace)
        chart = ("--chart", str(ROOT / "charts/adapter"))
        told = {
            "KUBECONFIG": str(self._platform.kubeconfig),
            "MLFLOW_TRACKING_URI": self._platform.mlflow,
            "ATELIER_HELM": str(program("helm")),
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "commands", *words, *place, *chart],
            env={**os.environ, **told},
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def lenient() -> dict[str, Any]:
    """The program's own policy with few pictures, which random weights may pass; what changes
    nothing may not."""
    policy = Policy.load().model_dump(mode="json", exclude_none=True)
    scorers = {kind: str(ROOT / path) for kind, path in policy["scorers"].items()}
    prompts = {role: found[:1] for role, found in policy["prompts"].items()}
    gates = {"effect": {"min": 0.0005}}
    return policy | {
        "scorers": scorers,
        "prompts": prompts,
        "gates": gates,
        "seeds": {"first": 2, "most": 2},
        "steps": 2,
    }
