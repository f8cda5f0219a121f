"""The folder of one run: its paths, its identity, and its lock."""

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
    """The paths of a run below `root`."""

    root: Path

    @classmethod
    def of(cls, recipe: Recipe, home: Home) -> RunFolder:
        """Return the default folder. Equal recipes share a folder, so that a run can be resumed."""
        return cls(home.runs / recipe.adapter / hex_of(recipe.digest)[:12])

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.root / "checkpoints"

    @property
    def samples(self) -> Path:
        """The folder of validation pictures."""
        return self.root / "samples"

    @property
    def package(self) -> Path:
        """The folder of the trained package."""
        return self.root / "package"

    def package_at(self, step: int) -> Path:
        """The folder of a package that was made from the checkpoint of a step."""
        return self.root / f"package-step-{step:08d}"

    @property
    def curve(self) -> Path:
        """The file with the scores of checkpoints."""
        return self.root / "judged.json"

    @property
    def about(self) -> Path:
        """The file with the identity of the run and its recipe, including all defaults."""
        return self.root / ABOUT

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Lock the folder for this process. Raises BadInput if another process has the lock."""
        busy = BadInput(
            f"{self.root}: another process is training into this folder; wait until it ends, or "
            "use another --output"
        )
        with locked(self.root / ".lock", busy=busy):
            yield

    def begin(self, recipe: Recipe, identity: RunIdentity, *, resume: bool) -> None:
        """Record the run in `about`, or check that the recorded run may be resumed.

        Raises BadInput if the folder contains another run, or if it contains this run and `resume`
        is False.
        """
        if not self.about.exists():
            content = {"identity": asdict(identity), "recipe": recipe.model_dump(mode="json")}
            write_atomic(self.about, json.dumps(content, indent=2, ensure_ascii=False))
            return
        if not resume:
            raise BadInput(
                f"{self.root}: the folder already contains a run; resume it with --resume, train "
                "anew with --again, or use another --output"
            )
        identity.check(json.loads(self.about.read_text())["identity"], self.root)

    def finished(self) -> Package | None:
        """Return the package of a completed run, or None if the run is not complete."""
        return Package.open(self.package) if self.package.is_dir() else None


def commit_of(folder: Path) -> str | None:
    """Return the commit in ATELIER_GIT_COMMIT, which a Job sets, or else the checked-out commit.

    Return None if `folder` is not in a git repository.
    """
    if configured := JobSettings.read().git_commit:
        return configured
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
