"""Runs a workflow of .github with act, without Docker: its jobs are processes of this machine.

What is copied and what runs: the commits of a scratch repository, and this project's own sources as
the runner's `atelier`. docs/actions.md says what act can show and what it cannot.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.local.tools import program
from tests.github import REPOSITORY

ROOT = Path(__file__).resolve().parents[2]
RUNNERS = ("ubuntu-24.04",)
UPLOAD = re.compile(r"actions/upload-artifact@[0-9a-f]{40}")
CHECKOUT = re.compile(r"actions/checkout@[0-9a-f]{40}")
# act knows a checkout of the event's own commit; of a branch it would ask GitHub.
BRANCH = """\
name: Check out a branch
description: In place of actions/checkout where it is given a ref.
inputs:
  ref: {required: true}
  persist-credentials: {default: "true"}
runs:
  using: composite
  steps:
    - shell: bash
      env: {BRANCH: "${{ inputs.ref }}"}
      run: |
        git init --quiet .
        git remote add origin "$ORIGIN"
        git fetch --quiet origin "$BRANCH"
        git checkout --quiet --force -B "$BRANCH" FETCH_HEAD
"""
# Actions' own service keeps artifacts; here they are copied into a folder.
STAND_IN = """\
name: Keep an artifact
description: In place of actions/upload-artifact, whose service is not here.
inputs:
  name: {required: true}
  path: {required: true}
  if-no-files-found: {default: warn}
runs:
  using: composite
  steps:
    - shell: bash
      env: {NAME: "${{ inputs.name }}", KEPT: "${{ inputs.path }}"}
      run: test ! -e "$KEPT" || { mkdir -p "$ARTIFACTS" && cp -r "$KEPT" "$ARTIFACTS/$NAME"; }
"""


def missing() -> str:
    """What is not on this machine, for a test that is skipped; empty where all is."""
    act = program("act")
    return "" if act.exists() else f"no {act}: `make tools TOOLS=act` builds it"


@dataclass(frozen=True)
class Ended:
    """How a run of a workflow ended."""

    code: int
    text: str

    def said(self) -> list[str]:
        """What the commands printed, without act's own lines."""
        return re.findall(r"^\[.*?\]\s+\| (.*)$", self.text, re.M)

    def jobs(self) -> dict[str, bool]:
        """Each job that ran, by its name: whether it succeeded."""
        ends = re.findall(r"^\[(.+?)\s*\] 🏁  Job (succeeded|failed)", self.text, re.M)
        return {name: how == "succeeded" for name, how in ends}


class Act:
    """A runner with a home of its own; artifacts are kept in `artifacts`.

    `variables` are what its commands find in their environment, whatever act sets.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None):
        self.folder = folder
        self.artifacts = folder / "artifacts"
        for name in ("home", "bin", "upload", "checkout", "artifacts"):
            (folder / name).mkdir(parents=True)
        (folder / "checkout" / "action.yml").write_text(BRANCH)
        (folder / "upload" / "action.yml").write_text(STAND_IN)
        exports = [f"export {key}='{value}'" for key, value in (variables or {}).items()]
        if program("helm").exists():  # else the workflows would build it
            (folder / "bin" / "helm").symlink_to(program("helm"))
        run = f'PYTHONPATH={ROOT} exec {sys.executable} -m commands "$@"'
        script = folder / "bin" / "atelier"
        script.write_text("\n".join(["#!/bin/sh", *exports, run, ""]))
        script.chmod(0o755)

    def run(
        self,
        checkout: Path,
        workflow: str,
        event: str,
        payload: Mapping[str, Any],
        *,
        job: str | None = None,
        inputs: Mapping[str, str] | None = None,
        matrix: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
        seconds: float = 900,
    ) -> Ended:
        """Let an event happen to the commit that a checkout is at; `job`: and what it needs, alone;
        `matrix`: its jobs with these values alone.

        act ends with an error at a matrix made from the outputs of a job that is skipped.
        """
        file = self.folder / "event.json"
        told = {"repository": {"full_name": REPOSITORY, "default_branch": "main"}, **payload}
        file.write_text(json.dumps(told | ({"inputs": dict(inputs)} if inputs else {})))
        done = subprocess.run(
            [
                *(str(program("act")), event, "--directory", str(checkout)),
                *("--workflows", f".github/workflows/{workflow}.yml", "--eventpath", str(file)),
                *("--container-daemon-socket", "-", "--no-cache-server"),
                *("--use-new-action-cache", "--action-offline-mode"),
                *(f"--local-repository=https://github.com/{one}" for one in self._stand_ins()),
                *(f"--platform={runner}=-self-hosted" for runner in RUNNERS),
                *_pairs("--secret", {"GITHUB_TOKEN": "a-token", **(secrets or {})}),
                *_pairs("--var", variables or {}),
                *(("--job", job) if job else ()),
                *(f"--matrix={key}:{value}" for key, value in (matrix or {}).items()),
            ],
            env={
                **{key: value for key, value in os.environ.items() if not _ours(key)},
                "HOME": str(self.folder / "home"),
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "ARTIFACTS": str(self.artifacts),
                "ORIGIN": _origin(checkout),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        return Ended(done.returncode, done.stdout)

    def _stand_ins(self) -> list[str]:
        text = "".join(file.read_text() for file in (ROOT / ".github/workflows").glob("*.yml"))
        kinds = {"upload": UPLOAD, "checkout": CHECKOUT}
        return [
            f"{one}={self.folder / name}"
            for name, kind in kinds.items()
            for one in sorted(set(kind.findall(text)))
        ]


def _origin(checkout: Path) -> str:
    """Where a checkout pushes to, after git's own rewriting."""
    asked = ["git", "-C", str(checkout), "remote", "get-url", "origin"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _pairs(option: str, values: Mapping[str, str]) -> Sequence[str]:
    return [f"{option}={key}={value}" for key, value in values.items()]


def _ours(variable: str) -> bool:
    """What would reach the workflow's commands from whoever tests."""
    return variable.startswith(("ATELIER_", "GITHUB_", "MLFLOW_", "KUBECONFIG"))
