"""Which commit a recipe comes from, for the package's lineage."""

import os
import subprocess
from pathlib import Path


def commit_of(folder: Path) -> str | None:
    """A Job is told by ATELIER_GIT_COMMIT; elsewhere what is checked out, None outside git."""
    if told := os.environ.get("ATELIER_GIT_COMMIT"):
        return told
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
