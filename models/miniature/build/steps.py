"""Record the number of training steps of each saved part in `steps.json`, beside the weights."""

import json
from pathlib import Path
from typing import Final

from atelier.files import locked, write_atomic

_FILE: Final[str] = "steps.json"


def recorded_steps(folder: Path) -> dict[str, int]:
    """Return the steps by part; empty if the file does not exist."""
    path = folder / _FILE
    return json.loads(path.read_text()) if path.exists() else {}


def record_steps(folder: Path, **steps: int) -> None:
    """Record the steps of the given parts, and keep those of the others.

    A lock prevents stages that run at the same time from overwriting each other's records.
    """
    with locked(folder / f".{_FILE}.lock", temporary=True):
        merged = {**recorded_steps(folder), **steps}
        write_atomic(folder / _FILE, json.dumps(merged, indent=2, sort_keys=True) + "\n")
