"""How long each saved part has been trained: `steps.json`, kept beside the weights it speaks of."""

import json
from pathlib import Path
from typing import Final

from atelier.files import locked, write_atomic

_FILE: Final[str] = "steps.json"


def recorded_steps(folder: Path) -> dict[str, int]:
    """Steps by part; empty where nothing was recorded."""
    path = folder / _FILE
    return json.loads(path.read_text()) if path.exists() else {}


def record_steps(folder: Path, **steps: int) -> None:
    """Put the steps of parts that have just been saved beside those of the others.

    Stages that run at once take turns, so that none loses what another records.
    """
    with locked(folder / f".{_FILE}.lock", temporary=True):
        known = {**recorded_steps(folder), **steps}
        write_atomic(folder / _FILE, json.dumps(known, indent=2, sort_keys=True) + "\n")
