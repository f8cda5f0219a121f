"""A repository with our workflows, whose events act runs against the cluster under test."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.actions.act import Act, Ended
from tests.cluster.e2e.platform import ROOT
from tests.cluster.e2e.rollouts import ENVIRONMENT, lenient
from tests.cluster.e2e.trainings import CPU, RECIPE, SCORERS, Trainings
from tests.cluster.local.tools import program
from tests.github import REPOSITORY, FakeGitHub
from tests.repository import Scratch
from tests.signing import private_key, signer

STEPS = 20  # of a training that has to be one, not a good one


class Workflows:
    """The scratch repository, its bare origin, and a runner of its own for each event."""

    def __init__(self, trainings: Trainings, github: FakeGitHub, folder: Path):
        self._trainings, self._github, self._folder = trainings, github, folder
        self._events = 0
        self._key = private_key()
        self.repository = self._repository()

    def recipe(self, name: str, steps: int = STEPS, **train: float) -> str:
        """A recipe, new or changed, committed and pushed to main; the commit before it. `train` are
        more of its settings."""
        before = self.repository.git("rev-parse", "HEAD")
        recipe = yaml.safe_load(RECIPE.read_text())
        recipe["adapter"] = name
        recipe["base"]["model"] = str((ROOT / recipe["base"]["model"]).resolve())
        del recipe["validation"], recipe["stages"][0]["prior"]
        recipe["stages"][0]["train"] |= {"steps": steps, "warmup": 2, **train}
        folder = self.repository.root / "adapters" / name
        for part in ("images", "look-alikes"):
            shutil.copytree(RECIPE.parent / part, folder / part, dirs_exist_ok=True)
        self.repository.write(f"adapters/{name}/recipe.yaml", yaml.safe_dump(recipe))
        self.repository.commit(f"{name}, {steps} steps")
        self.repository.git("push", "--quiet", "origin", "main")
        return before

    def open_requests(self) -> list[Any]:
        """Pull requests that nobody has merged."""
        return [one for one in self._github.pulls if one["state"] == "open"]

    def merge(self) -> str:
        """As a person merges the open pull request; the commit before it."""
        (request,) = self.open_requests()
        before = self.repository.git("rev-parse", "HEAD")
        self.repository.git("fetch", "--quiet", "origin", request["head"])
        self.repository.git("merge", "--quiet", "--no-ff", "--no-edit", "FETCH_HEAD")
        self.repository.git("push", "--quiet", "origin", "main")
        request["state"] = "closed"
        return before

    def push(self, workflow: str, before: str) -> Ended:
        """What a push to main since a commit sets going."""
        return self._run(workflow, "push", {"before": before, "ref": "refs/heads/main"})

    def form(
        self,
        workflow: str,
        inputs: Mapping[str, str],
        matrix: Mapping[str, str] | None = None,  # these jobs of it alone
    ) -> Ended:
        """What a filled in form sets going."""
        return self._run(workflow, "workflow_dispatch", {"ref": "refs/heads/main"}, inputs, matrix)

    def pull(self) -> None:
        """What the workflows pushed."""
        self.repository.git("pull", "--quiet", "--ff-only", "origin", "main")

    @property
    def platform_file(self) -> Path:
        """Of the environment, with who signs."""
        return self.repository.root / "k8s/environments" / ENVIRONMENT / "platform.yaml"

    def _run(
        self,
        workflow: str,
        event: str,
        payload: Any,
        inputs: Mapping[str, str] | None = None,
        matrix: Mapping[str, str] | None = None,
    ) -> Ended:
        self._events += 1
        platform = self._trainings.platform
        there = {
            **self._github.variables,
            "KUBECONFIG": str(platform.kubeconfig),
            "ATELIER_HELM": str(program("helm")),
            "ATELIER_NAMESPACE": platform.namespace,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
        act = Act(self._folder / f"event-{self._events}", there)
        options = f"--namespace {self._trainings.namespace} --volume {self._trainings.claim}"
        return act.run(
            self.repository.root,
            workflow,
            event,
            payload,
            inputs=inputs,
            matrix=matrix,
            secrets={"ATELIER_SIGNING_KEY": self._key.decode()},
            variables={
                "MLFLOW_TRACKING_URI": platform.mlflow,
                "ATELIER_ENVIRONMENT": ENVIRONMENT,
                "ATELIER_TRAIN_IMAGE": self._trainings.image,
                "ATELIER_SUBMIT": f"{options} --cpu {CPU} --memory 6Gi",
            },
            seconds=1500,
        )

    def _repository(self) -> Scratch:
        origin = Scratch.make(self._folder / "origin")
        origin.git("config", "core.bare", "true")
        made = Scratch.make(self._folder / "repository")
        url = f"https://github.com/{REPOSITORY}.git"  # by which act names the repository
        made.git("remote", "add", "origin", url)
        made.git("config", f"url.{origin.root}.insteadOf", url)
        for part in (".github", "charts/adapter"):
            shutil.copytree(ROOT / part, made.root / part)
        environment = f"k8s/environments/{ENVIRONMENT}"
        signers = {"ci.pem": signer(self._key).pem.decode()}
        signatures = {"policy": "enforce", "signers": signers}
        made.write(
            f"{environment}/platform.yaml", yaml.safe_dump({"serving": {"signatures": signatures}})
        )
        made.write(f"{environment}/policy.yaml", self._policy())
        made.write(f"{environment}/adapters/README.md", "what serves")
        made.commit("an environment")
        made.git("push", "--quiet", "origin", "main")
        return made

    def _policy(self) -> str:
        """The environment's, in git and where trainings find it: the scorers from MLflow."""
        platform = self._trainings.platform
        scorers = {
            kind: platform.atelier("scorer", "import", str(SCORERS / kind))["uri"]
            for kind in ("clip", "dino")
        }
        text = yaml.safe_dump(json.loads(json.dumps({**lenient(), "scorers": scorers})))
        self._trainings.judge_by(ENVIRONMENT, text)
        return text
