"""Which commit a recipe comes from, for the package's lineage."""

import subprocess
from pathlib import Path

from pipelines.settings import JobSettings


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
