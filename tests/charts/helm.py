"""Helm, where it is: on the PATH, or among the cluster's tools (`make cluster-tools`)."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CACHE = Path(os.environ.get("ATELIER_CLUSTER_CACHE") or Path.home() / ".cache/atelier-cluster")

Object = dict[str, Any]


class HelmError(AssertionError):
    """Helm ended with an error; its text."""


def program(name: str) -> str:
    """A program's path; the test is skipped, saying so, where it is not there."""
    found = shutil.which(name, path=f"{CACHE / 'bin'}:{os.environ['PATH']}")
    return found or pytest.skip(f"{name} is not there; `make charts` builds it")


class Helm:
    """Helm, away from the user's own settings."""

    def __init__(self, home: Path):
        self._path = program("helm")
        settings = {f"HELM_{one}_HOME": str(home / one) for one in ("CACHE", "CONFIG", "DATA")}
        self._environment = {**os.environ, **settings}

    def __call__(self, *arguments: str | Path) -> str:
        """What a command prints; HelmError where it fails."""
        done = subprocess.run(
            [self._path, *map(str, arguments)],
            check=False,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            raise HelmError(done.stderr + done.stdout)
        return done.stdout

    def template(self, chart: Path, release: str, values: Path, *more: str) -> list[Object]:
        """The objects that a chart makes of a values file and further arguments."""
        place = ("--namespace", "atelier-production", "--values", values)
        text = self("template", release, chart, *place, *more)
        return [one for one in yaml.safe_load_all(text) if one]
