"""Checkpoints are whole or absent, whatever happens while they are written."""

import json
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.errors import BadInput, Unavailable
from pipelines.train.checkpoint import Checkpoint, Checkpoints, RunIdentity
from pipelines.train.run_folder import RunFolder

IDENTITY = RunIdentity("sha256:recipe", "sha256:base", "sha256:dataset")


def checkpoint(step: int, size: int = 4) -> Checkpoint:
    return Checkpoint(step, 2 * step, {"w": torch.full((size,), float(step))}, {"lr": 0.5}, 1)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails, as on a full disk (Python ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_newest_comes_back_and_the_oldest_go(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, IDENTITY, keep=2)
    assert kept.latest() is None
    for step in (5, 10, 15):
        kept.save(checkpoint(step))
    assert names(tmp_path) == ["step-00000010", "step-00000015"]
    found = kept.latest()
    assert found is not None
    assert (found.step, found.position, found.optimiser, found.threads) == (15, 30, {"lr": 0.5}, 1)
    assert torch.equal(found.weights["w"], torch.full((4,), 15.0))


def test_the_best_stays_however_old_it_is(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, IDENTITY, keep=1)
    for step, best in ((5, None), (10, 5), (15, 5), (20, 15)):
        kept.save(checkpoint(step), best=best)
        assert names(tmp_path) == sorted({f"step-{s:08d}" for s in (best or step, step)})
    assert torch.equal(kept.weights(15)["w"], torch.full((4,), 15.0))


def test_weights_of_an_unknown_or_damaged_step_are_refused(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, IDENTITY, keep=2)
    with pytest.raises(BadInput, match="has no checkpoint of step 7; it has those of: none"):
        kept.weights(7)
    kept.save(checkpoint(5))
    state = kept.save(checkpoint(10)) / "state.pt"
    with pytest.raises(BadInput, match="has no checkpoint of step 7; it has those of: 5, 10"):
        kept.weights(7)
    state.write_bytes(b"")
    with pytest.raises(BadInput, match="step-00000010: is damaged; use the checkpoint of another"):
        kept.weights(10)
    other = replace(IDENTITY, recipe="sha256:changed")
    with pytest.raises(BadInput, match="recipe was"):
        Checkpoints(tmp_path, other, keep=2).weights(5)


def test_generators_of_every_kind_come_back(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, IDENTITY, keep=1)
    kept.save(checkpoint(1))

    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    expected = drawn()
    drawn()
    kept.latest()
    assert drawn() == expected


def test_what_was_half_written_is_passed_over_and_removed(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, IDENTITY, keep=3)
    kept.save(checkpoint(5))
    half = tmp_path / ".step-00000010.0123abcd"
    half.mkdir()
    (half / "state.pt").write_bytes(b"PK\x03\x04half")
    found = kept.latest()
    assert found is not None
    assert found.step == 5
    assert names(tmp_path) == ["step-00000005"]


@pytest.mark.parametrize("harm", ["cut", "empty", "no manifest"])
def test_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path, harm: str) -> None:
    kept = Checkpoints(tmp_path, IDENTITY, keep=3)
    kept.save(checkpoint(5))
    newest = kept.save(checkpoint(10))
    if harm == "cut":
        state = newest / "state.pt"
        state.write_bytes(state.read_bytes()[:-100])
    elif harm == "empty":
        (newest / "checkpoint.json").write_text("")
    else:
        (newest / "checkpoint.json").unlink()
    found = kept.latest()
    assert found is not None
    assert found.step == 5


def test_a_full_disk_is_told_and_the_earlier_one_is_whole(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, IDENTITY, keep=1)
    kept.save(checkpoint(5))
    with files_limited_to(100_000), pytest.raises(Unavailable) as told:
        kept.save(checkpoint(10, size=200_000))
    said = f"{tmp_path / 'step-00000010'}: does not fit on its disk (takes 1 MiB, "
    assert str(told.value).startswith(said)
    assert (
        "MiB free: File too large); free space, then continue with --resume, because earlier "
        "checkpoints are complete" in str(told.value)
    )
    assert names(tmp_path) == ["step-00000005"]
    found = kept.latest()
    assert found is not None
    assert found.step == 5


def test_another_recipe_or_base_is_refused_with_both_digests(tmp_path: Path) -> None:
    Checkpoints(tmp_path, IDENTITY, keep=1).save(checkpoint(5))
    other = replace(IDENTITY, recipe="sha256:changed")
    with pytest.raises(BadInput, match=r"recipe was sha256:recipe, is now sha256:changed"):
        Checkpoints(tmp_path, other, keep=1).latest()
    other = replace(IDENTITY, base="sha256:other")
    with pytest.raises(BadInput, match=r"base was sha256:base, is now sha256:other"):
        Checkpoints(tmp_path, other, keep=1).latest()


def test_the_manifest_says_whose_it_is(tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path, IDENTITY, keep=1).save(checkpoint(5))
    about = json.loads((folder / "checkpoint.json").read_text())
    assert about["identity"]["recipe"] == "sha256:recipe"
    assert about["step"] == 5


def test_one_process_at_a_time_trains_into_a_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.claimed(), pytest.raises(BadInput, match="another process"), folder.claimed():
        pass
    with folder.claimed():
        pass


def test_a_run_belongs_to_its_number_of_processes(tmp_path: Path) -> None:
    """Older runs do not say: they were of one."""
    older = {key: value for key, value in asdict(IDENTITY).items() if key != "processes"}
    IDENTITY.check(older, tmp_path)
    with pytest.raises(BadInput, match="processes was 1, is now 2"):
        replace(IDENTITY, processes=2).check(older, tmp_path)


def test_a_run_belongs_to_its_vae(tmp_path: Path) -> None:
    with_vae = replace(IDENTITY, vae="sha256:vae")
    with_vae.check({**asdict(with_vae)}, tmp_path)
    with_vae.check(
        {key: value for key, value in asdict(IDENTITY).items() if key != "vae"}, tmp_path
    )  # an older run did not record it
    with pytest.raises(BadInput, match="vae was sha256:vae, is now None"):
        IDENTITY.check(asdict(with_vae), tmp_path)
