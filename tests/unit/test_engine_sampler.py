"""The sampler stores what it says, no more of it, and nobody waits for it."""

import io
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.contract.info import UsedAdapter
from atelier.contract.request import AdapterUse, ImageRequest
from atelier.contract.sample import CHUNK, SLOTS, Sample, is_chosen, key_of, slot_of
from services.engine.result import Cancelled, ImageResult
from services.engine.sampler import QUEUED, Sampler
from services.engine.settings import SampleSettings

DIGEST = "sha256:" + "a" * 64
USED = UsedAdapter(name="thor-cat", version=2, digest=DIGEST, weight=1.0)


def drawn(
    seed: int = 0, *, adapters: tuple[UsedAdapter, ...] = (USED,), images: int = 1
) -> tuple[ImageRequest, ImageResult]:
    uses = tuple(AdapterUse(one.name, one.version, one.weight) for one in adapters)
    request = ImageRequest("a sks cat – zoë", adapters=uses, seed=seed, steps=7, images=images)
    pixels = np.random.default_rng(seed).integers(0, 256, (images, 8, 16, 3), dtype=np.uint8)
    seeds = tuple(range(seed, seed + images))
    return request, ImageResult(pixels, seeds, adapters, "torch", "engine")


def files(volume: Path) -> list[Path]:
    return sorted(volume.rglob("*.png"))


def sampler(volume: Path, share: float = 1.0, keep: int = 64) -> Sampler:
    return Sampler(volume, SampleSettings(sample_share=share, sample_keep=keep))


def until_written(taking: Sampler) -> None:
    while taking._queue.qsize():
        time.sleep(0.001)


def test_a_sample_has_the_pixels_and_the_request(tmp_path: Path) -> None:
    request, result = drawn(seed=5)
    taking = sampler(tmp_path)
    taking.offer(request, result)
    taking.close()
    (file,) = files(tmp_path)
    assert file.relative_to(tmp_path).parent == Path("samples/thor-cat/2")
    with Image.open(io.BytesIO(file.read_bytes())) as image:
        assert np.array_equal(np.asarray(image), result.images[0])
        told = Sample.model_validate_json(image.text[CHUNK])
    assert (told.prompt, told.seed, told.steps) == ("a sks cat – zoë", 5, 7)
    assert (told.adapter, told.version, told.digest) == ("thor-cat", 2, DIGEST)
    assert (told.width, told.height) == (16, 8)


def test_the_share_is_kept_and_replicas_choose_the_same(tmp_path: Path) -> None:
    chosen = [is_chosen(key_of("a cat", seed), 0.25) for seed in range(2000)]
    assert 0.2 < sum(chosen) / len(chosen) < 0.3
    for replica in ("one", "two"):
        taking = sampler(tmp_path / replica, share=0.25)
        for seed in range(0, 32, 4):
            taking.offer(*drawn(seed, images=4))
            until_written(taking)
        taking.close()
    one, two = ({file.name for file in files(tmp_path / name)} for name in ("one", "two"))
    wanted = {key_of("a sks cat – zoë", seed) for seed in range(32)}
    assert one == two == {f"{key}.png" for key in wanted if is_chosen(key, 0.25)}


def test_the_chosen_ones_are_spread_over_all_slots() -> None:
    keys = [key for seed in range(10_000) if is_chosen(key := key_of("x", seed), 0.1)]
    assert {slot_of(key) for key in keys} == set(range(SLOTS))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    taking = sampler(tmp_path, keep=3)
    for seed in range(7):
        taking.offer(*drawn(seed))
        until_written(taking)
    taking.close()
    kept = {file.stem for file in files(tmp_path)}
    assert kept == {key_of("a sks cat – zoë", seed) for seed in (4, 5, 6)}


@pytest.mark.parametrize(
    "adapters",
    [
        (),
        (USED, USED.model_copy(update={"name": "hat"})),
        (USED.model_copy(update={"weight": 0.4}),),
        (USED.model_copy(update={"version": None}),),
    ],
)
def test_other_requests_are_not_sampled(tmp_path: Path, adapters: tuple[UsedAdapter, ...]) -> None:
    taking = sampler(tmp_path)
    taking.offer(*drawn(adapters=adapters))
    taking.close()
    assert not files(tmp_path)


def test_off_by_default_without_a_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    taking = Sampler(tmp_path, SampleSettings())
    future: Future[ImageResult] = Future()
    request, result = drawn()
    taking.watch(request, future)
    future.set_result(result)
    assert threading.active_count() == before
    taking.close()
    assert not files(tmp_path)


def test_requests_that_fail_are_ignored_and_others_are_sampled(tmp_path: Path) -> None:
    taking, (request, result) = sampler(tmp_path), drawn()
    failed, cancelled, done = Future[ImageResult](), Future[ImageResult](), Future[ImageResult]()
    for future in (failed, cancelled, done):
        taking.watch(request, future)
    failed.set_exception(Cancelled("withdrawn"))
    cancelled.cancel()
    done.set_result(result)
    taking.close()
    assert len(files(tmp_path)) == 1


def test_a_busy_sampler_drops_pictures_and_does_not_wait(tmp_path: Path) -> None:
    taking = sampler(tmp_path)
    going, write = threading.Event(), taking._write
    taking._write = lambda *chosen: (going.wait(10), write(*chosen))[1]  # type: ignore[method-assign]
    taking.offer(*drawn(0, images=QUEUED + 5))
    assert taking.dropped in (4, 5)  # the thread may have taken one already
    going.set()
    taking.close()
    assert len(files(tmp_path)) == QUEUED + 5 - taking.dropped


def test_a_volume_that_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "samples").write_text("in the way")
    taking = sampler(tmp_path)
    for seed in range(3):
        taking.offer(*drawn(seed))
    taking.close()
    warnings = [record for record in caplog.records if "cannot be written" in record.message]
    assert len(warnings) == 1
