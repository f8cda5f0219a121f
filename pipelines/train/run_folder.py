"""The folder of one run: what lies where in it, whose it is, and that only one process writes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atelier.adapter.package import Package
from atelier.data.names import hex_of
from atelier.data.recipe import Recipe
from atelier.errors import BadInput
from atelier.files import locked, write_atomic
from atelier.home import Home
from pipelines.settings import JobSettings
from pipelines.train.tracking.tracker import ABOUT

if TYPE_CHECKING:
    from pipelines.train.checkpoint import RunIdentity


@dataclass(frozen=True)
class RunFolder:
    """Paths below one root."""

    root: Path

    @classmethod
    def of(cls, recipe: Recipe, home: Home) -> RunFolder:
        """Where nobody names another: equal recipes share it, so that a run can be resumed."""
        return cls(home.runs / recipe.adapter / hex_of(recipe.digest)[:12])

    @property
    def checkpoints(self) -> Path:
        """What a killed run goes on from."""
        return self.root / "checkpoints"

    @property
    def samples(self) -> Path:
        """Validation pictures."""
        return self.root / "samples"

    @property
    def package(self) -> Path:
        """The result."""
        return self.root / "package"

    @property
    def about(self) -> Path:
        """What the run is made from, the recipe with all its defaults included."""
        return self.root / ABOUT

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """BadInput where another process is writing here."""
        busy = BadInput(
            f"{self.root}: another process is training into it; wait for it, or name another "
            "--output"
        )
        with locked(self.root / ".lock", busy=busy):
            yield

    def begin(self, recipe: Recipe, identity: RunIdentity, *, resume: bool) -> None:
        """BadInput where another run lies here, or this one and nobody asked to go on with it."""
        if not self.about.exists():
            told = {"identity": asdict(identity), "recipe": recipe.model_dump(mode="json")}
            write_atomic(self.about, json.dumps(told, indent=2, ensure_ascii=False))
            return
        if not resume:
            raise BadInput(
                f"{self.root}: a run lies here already; go on with it by --resume, or name another "
                "--output"
            )
        identity.check(json.loads(self.about.read_text())["identity"], self.root)

    def finished(self) -> Package | None:
        """The package of a run that has ended."""
        return Package.open(self.package) if self.package.is_dir() else None


def commit_of(folder: Path) -> str | None:
    """The commit that ATELIER_GIT_COMMIT names, as in a Job, else the one that is checked out.

    None outside git.
    """
    if named := JobSettings.read().git_commit:
        return named
    try:
        asked = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None
