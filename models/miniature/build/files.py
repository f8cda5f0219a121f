"""Files and folders that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class StateError(Exception):
    """The state folder does not hold what a stage needs, or holds what it would overwrite."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to that takes the place of `path` when the block ends well."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        if aside.is_dir() and path.is_dir():
            old = path.with_name(f".{path.name}.old.{os.getpid()}")
            path.rename(old)
            aside.rename(path)
            shutil.rmtree(old)
        else:
            aside.replace(path)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside)
        aside.unlink(missing_ok=True)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Save a training state so that a kill at any moment leaves the last good one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside:
        torch.save(state, aside)


def load_state(path: Path) -> dict[str, Any] | None:
    """The saved state, or None where training has not begun."""
    return torch.load(path, weights_only=False) if path.exists() else None
