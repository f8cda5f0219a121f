"""Everything that a run needs to go on as if nothing had happened, whole or absent.

A checkpoint is a folder `step-00000050` written to the side, flushed and renamed. What a killed
process leaves half-written has another name and is removed by the next.
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
    """What a checkpoint belongs to; going on with anything else would be another training."""

    recipe: str
    base: str
    dataset: str
    stage: int = 0
    processes: int = 1  # the batch grows with them

    def check(self, found: Mapping[str, Any], place: Path) -> None:
        """BadInput naming both sides where what lies at `place` belongs to something else."""
        wanted = asdict(self)
        found = {"processes": 1, **found}  # which older runs do not say
        other = [name for name in wanted if found.get(name) != wanted[name]]
        if other:
            told = ", ".join(f"{name} {found.get(name)} (now {wanted[name]})" for name in other)
            raise BadInput(
                f"{place}: belongs to {told}; train what has changed into another --output, or "
                "change it back to go on"
            )


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` updates; `position` is the number of batches that it has seen."""

    step: int
    position: int
    weights: Mapping[str, torch.Tensor]
    optimiser: Mapping[str, Any]
    threads: int  # of the CPU; another number may round sums otherwise


class Checkpoints:
    """The checkpoints of one run, newest first to go on from, oldest first to go."""

    def __init__(self, folder: Path, identity: RunIdentity, keep: int) -> None:
        self.folder, self.identity, self.keep = folder, identity, keep

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes it, then drops the oldest ones; Unavailable where the disk is full."""
        final = self.folder / f"step-{checkpoint.step:08d}"
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
            shutil.rmtree(old)
        return final

    def latest(self) -> Checkpoint | None:
        """The newest whole one; BadInput where it belongs to another recipe, base or dataset."""
        for left in self.folder.glob(".step-*"):
            shutil.rmtree(left)
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

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def disk_full(
    error: OSError | RuntimeError, path: Path, needed: int | None = None
) -> Unavailable | None:
    """What to say where `needed` bytes found no room; None where writing failed otherwise.

    torch.save raises a RuntimeError of its own over the OSError that stopped it.
    """
    reason = error if isinstance(error, OSError) else error.__context__
    if not isinstance(reason, OSError) or reason.errno not in _NO_ROOM:
        return None
    existing = next(one for one in (path, *path.parents) if one.exists())
    free = shutil.disk_usage(existing).free // 2**20
    takes = "" if needed is None else f"takes {math.ceil(needed / 2**20)} MiB, "
    return Unavailable(
        f"{path}: does not fit on its disk ({takes}{free} MiB free: {reason.strerror}); earlier "
        "checkpoints are whole: make room, then go on with --resume"
    )


def _nbytes(value: object) -> int:
    """Of all tensors in nested mappings."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    return sum(map(_nbytes, value.values())) if isinstance(value, Mapping) else 0


def _manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint whose state is what was written; None for a damaged one."""
    try:
        about: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        return about if sha256_file(folder / STATE) == about["state"] else None
    except (OSError, ValueError, KeyError):
        return None


def _random_state() -> dict[str, Any]:
    """Of every generator that a library could draw from; ours need none (see draws.py)."""
    name, words, place, has_gauss, gauss = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": list(random.getstate()[1]),
        "numpy": [str(name), words.tolist(), int(place), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def _restore_random(state: Mapping[str, Any]) -> None:
    random.setstate((3, tuple(state["python"]), None))
    name, words, place, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(words, dtype=np.uint32), place, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
