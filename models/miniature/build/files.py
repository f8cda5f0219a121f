"""Writes files and folders atomically."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class StateError(Exception):
    """The state folder lacks a required file, or contains a file that would be overwritten."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which replaces `path` if the block ends without an error."""
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
    """Save a training state atomically: if the process is killed, the previous state remains."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside:
        torch.save(state, aside)


def load_state(path: Path) -> dict[str, Any] | None:
    """Return the saved state, or None if the file does not exist."""
    return torch.load(path, weights_only=False) if path.exists() else None
