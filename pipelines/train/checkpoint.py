"""Checkpoints: the complete state that a run needs to resume, written atomically.

A checkpoint is a folder such as `step-00000050`. It is written under a temporary name, flushed and
renamed. If a process is killed while writing, the next process removes the temporary folder.
"""

import errno
import json
import math
import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from atelier.errors import BadInput, Unavailable
from atelier.files import replace_folder, sha256_file, staging

MANIFEST, STATE = "checkpoint.json", "state.pt"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class RunIdentity:
    """The digests and numbers that identify a training.

    A checkpoint can only be resumed by a run with the same identity.
    """

    recipe: str
    base: str
    dataset: str
    stage: int = 0
    processes: int = 1  # the batch of a step is proportional to this number
    vae: str | None = None  # of a VAE that replaces the VAE of the base

    def check(self, recorded: Mapping[str, Any], place: Path) -> None:
        """Raise BadInput with both values of each field in which `recorded` differs.

        `recorded` is the identity that was read from the checkpoint or run folder `place`.
        """
        current = asdict(self)
        # Older runs record neither the number of processes nor the VAE.
        recorded = {"processes": 1, "vae": self.vae, **recorded}
        changed = [name for name in current if recorded.get(name) != current[name]]
        if changed:
            changes = ", ".join(
                f"{name} was {recorded.get(name)}, is now {current[name]}" for name in changed
            )
            raise BadInput(
                f"{place}: cannot be resumed, because its inputs have changed: {changes}; use "
                "another --output for a new run, or restore the earlier values to resume"
            )


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` updates; `position` is the number of batches used so far.

    `weights` are the trainable parameters by canonical key, `optimiser` is `Optimiser.state()`.
    """

    step: int
    position: int
    weights: Mapping[str, torch.Tensor]
    optimiser: Mapping[str, Any]
    threads: int  # of the CPU; another number may change the rounding of sums


class Checkpoints:
    """The newest `keep` checkpoints of one run, in `folder`, and the best one if it is older."""

    def __init__(self, folder: Path, identity: RunIdentity, keep: int) -> None:
        self.folder, self.identity, self.keep = folder, identity, keep

    def folder_of(self, step: int) -> Path:
        """Return the folder of the checkpoint of a step."""
        return self.folder / f"step-{step:08d}"

    def save(self, checkpoint: Checkpoint, *, best: int | None = None) -> Path:
        """Write a checkpoint, remove the oldest ones except that of step `best`; return its folder.

        Raises Unavailable if the disk is full.
        """
        final = self.folder_of(checkpoint.step)
        state = {
            "weights": dict(checkpoint.weights),
            "optimiser": dict(checkpoint.optimiser),
            "random": _random_state(),
        }
        try:
            with staging(final) as aside:
                with (aside / STATE).open("wb") as file:
                    torch.save(state, file)
                about = {
                    "step": checkpoint.step,
                    "position": checkpoint.position,
                    "identity": asdict(self.identity),
                    "state": sha256_file(aside / STATE),
                    "threads": checkpoint.threads,
                    "torch": torch.__version__,
                }
                (aside / MANIFEST).write_text(json.dumps(about, indent=2))
                replace_folder(aside, final)
        except (OSError, RuntimeError) as error:
            full = disk_full(error, final, _nbytes(state))
            if full is None:
                raise
            raise full from error
        for old in self._folders()[: -self.keep]:
            if best is None or old != self.folder_of(best):
                shutil.rmtree(old)
        return final

    def latest(self) -> Checkpoint | None:
        """Return the newest undamaged checkpoint, or None, and restore its random state.

        Raises BadInput if the checkpoint belongs to another recipe, base or dataset.
        """
        for unfinished in self.folder.glob(".step-*"):
            shutil.rmtree(unfinished)
        for folder in reversed(self._folders()):
            about = _manifest(folder)
            if about is None:
                continue
            self.identity.check(about["identity"], folder)
            state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
            _restore_random(state["random"])
            return Checkpoint(
                about["step"],
                about["position"],
                state["weights"],
                state["optimiser"],
                about["threads"],
            )
        return None

    def weights(self, step: int) -> Mapping[str, torch.Tensor]:
        """Return the trainable parameters of the checkpoint of a step, by canonical key.

        Raises BadInput if there is no such checkpoint, or if it is damaged or of another run.
        """
        folder = self.folder_of(step)
        steps = [int(found.name.removeprefix("step-")) for found in self._folders()]
        if step not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise BadInput(
                f"{self.folder}: has no checkpoint of step {step}; it has those of: {there}"
            )
        about = _manifest(folder)
        if about is None:
            raise BadInput(f"{folder}: is damaged; use the checkpoint of another step")
        self.identity.check(about["identity"], folder)
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        weights: Mapping[str, torch.Tensor] = state["weights"]
        return weights

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def disk_full(
    error: OSError | RuntimeError, path: Path, needed: int | None = None
) -> Unavailable | None:
    """Return the error to raise if writing `needed` bytes to `path` filled the disk.

    Return None if writing failed for another reason. torch.save wraps the OSError in a
    RuntimeError, so the context of `error` is examined too.
    """
    reason = error if isinstance(error, OSError) else error.__context__
    if not isinstance(reason, OSError) or reason.errno not in _NO_ROOM:
        return None
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free // 2**20
    takes = "" if needed is None else f"takes {math.ceil(needed / 2**20)} MiB, "
    return Unavailable(
        f"{path}: does not fit on its disk ({takes}{free} MiB free: {reason.strerror}); free "
        "space, then continue with --resume, because earlier checkpoints are complete"
    )


def _nbytes(value: object) -> int:
    """Return the size in bytes of all tensors in nested mappings."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    return sum(map(_nbytes, value.values())) if isinstance(value, Mapping) else 0


def _manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a checkpoint, or None if its files are missing or damaged."""
    try:
        about: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        return about if sha256_file(folder / STATE) == about["state"] else None
    except (OSError, ValueError, KeyError):
        return None


def _random_state() -> dict[str, Any]:
    """Return the state of the global generators, which libraries may use.

    The trainer uses none of them (see draws.py).
    """
    name, key, position, has_gauss, gauss = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": list(random.getstate()[1]),
        "numpy": [str(name), key.tolist(), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def _restore_random(state: Mapping[str, Any]) -> None:
    random.setstate((3, tuple(state["python"]), None))
    name, key, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(key, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
