"""The engine as a service: full queues, cancellation, deadlines, failures and shutdown."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pytest
import torch

from atelier.adapter.package import Package
from atelier.errors import Unavailable
from services.engine import (
    AdapterUse,
    Base,
    Cancelled,
    DeadlineExceeded,
    Diverged,
    Engine,
    EngineSettings,
    ImageRequest,
    ImageResult,
    QueueFull,
    RequestError,
    UnknownAdapter,
    load_base,
)
from tests.tiny import tiny_adapter

QUICK = ImageRequest("a cat", steps=2, guidance_scale=1.0)
CAT = (AdapterUse("cat"),)


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Base:
    return load_base(tiny_model)


@pytest.fixture
def engine(base: Base, cats: list[Package]) -> Iterator[Engine]:
    engine = Engine(base, EngineSettings(queue=3, inflight=2, max_rank=8))
    engine.adapters.add(cats[0], 1)
    yield engine
    engine.close(drain=False)


def apart(one: ImageResult, other: ImageResult) -> int:
    """The largest difference of a pixel; up to 2 is what batches of other sizes round."""
    return int(np.abs(one.images.astype(int) - other.images.astype(int)).max())


def finish(engine: Engine) -> None:
    while engine.step():
        pass


def test_a_full_queue_says_when_to_come_back(engine: Engine) -> None:
    futures = [engine.submit(QUICK) for _ in range(3)]
    with pytest.raises(QueueFull) as refused:
        engine.submit(replace(QUICK, adapters=CAT))
    assert refused.value.retry_after is not None and refused.value.retry_after >= 1
    finish(engine)
    assert all(future.result().images.shape == (1, 64, 64, 3) for future in futures)
    assert engine.adapters.list()[0].users == 0
    # generate_many waits for room instead.
    assert len(engine.generate_many([QUICK] * 7)) == 7


def test_a_withdrawn_request_leaves_between_steps(engine: Engine) -> None:
    kept, withdrawn = engine.submit(QUICK), engine.submit(replace(QUICK, steps=100, adapters=CAT))
    engine.step()
    assert engine.stats().running == 2 and engine.stats().running_adapters == ("cat",)
    withdrawn.cancel()
    finish(engine)
    assert kept.done() and engine.stats().calls == 2
    with pytest.raises(CancelledError):
        withdrawn.result()
    assert engine.stats().slots_in_use == 0 and engine.adapters.list()[0].users == 0


def test_a_deadline_ends_a_request_wherever_it_is(engine: Engine) -> None:
    running = engine.submit(replace(QUICK, steps=100, deadline=0.5))
    engine.step()
    waiting = engine.submit(replace(QUICK, deadline=0.5))
    time.sleep(0.6)
    engine.step()
    with pytest.raises(DeadlineExceeded, match="1 of 100"):
        running.result(0)
    with pytest.raises(DeadlineExceeded, match="before the first UNet call"):
        waiting.result(0)


def test_bad_requests_hold_nothing(engine: Engine, cats: list[Package]) -> None:
    with pytest.raises(UnknownAdapter):
        engine.submit(replace(QUICK, adapters=(*CAT, AdapterUse("dog"))))
    with pytest.raises(RequestError, match="occurs twice"):
        engine.submit(replace(QUICK, adapters=CAT * 2))
    with pytest.raises(RequestError, match="images"):
        engine.submit(replace(QUICK, images=3))
    for seed in (1, 2):
        engine.adapters.add_tensors(f"copy{seed}", cats[0].lora())
    three = (*CAT, AdapterUse("copy1"), AdapterUse("copy2"))
    with pytest.raises(RequestError, match="total rank 12 exceeds the max_rank of this engine, 8"):
        engine.submit(replace(QUICK, adapters=three))
    # At weight zero an adapter needs no place, and the picture is the base's.
    idle = tuple(replace(use, weight=0.0) for use in three)
    result = engine.generate(replace(QUICK, adapters=idle))
    assert np.array_equal(result.images, engine.generate(QUICK).images)
    assert [used.weight for used in result.adapters] == [0.0] * 3
    assert all(info.users == 0 for info in engine.adapters.list())


def test_a_request_keeps_the_version_it_was_admitted_with(
    engine: Engine, cats: list[Package]
) -> None:
    request = replace(QUICK, steps=4, adapters=CAT)
    before = engine.submit(request)
    engine.step()
    engine.adapters.add(cats[1], 2)
    engine.adapters.default("cat", 2)
    after, explicit = (
        engine.submit(request),
        engine.submit(replace(request, adapters=(AdapterUse("cat", 1),))),
    )
    engine.adapters.remove("cat", 1)
    finish(engine)
    told = [
        (f.result().adapters[0].version, f.result().adapters[0].digest)
        for f in (before, after, explicit)
    ]
    assert told == [(1, cats[0].digest), (2, cats[1].digest), (1, cats[0].digest)]
    assert apart(before.result(), explicit.result()) <= 2
    assert apart(before.result(), after.result()) > 20


def test_an_adapter_that_cannot_be_loaded_fails_its_request_alone(
    base: Base, tiny_model: Path, cats: list[Package], tmp_path: Path
) -> None:
    dog = Package.open(tiny_adapter(tiny_model, tmp_path / "dog", name="dog", seed=3))
    engine = Engine(base, EngineSettings(host_memory=130_000, max_rank=8))
    engine.adapters.add(dog, 1)
    engine.adapters.add(cats[0], 1)
    assert [info.resident for info in engine.adapters.list()] == [True, False]
    (dog.path / "adapter.safetensors").unlink()
    lost = engine.submit(replace(QUICK, adapters=(AdapterUse("dog"),)))
    fine = engine.submit(replace(QUICK, adapters=CAT))
    while not (lost.done() and fine.done()):
        engine.step()
    assert "dog" in str(lost.exception()) and "missing" in str(lost.exception())
    assert fine.result().adapters[0].name == "cat"
    engine.close()


def test_one_row_that_fails_takes_no_other_with_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A UNet call that raises is repeated image by image; only the culprit's request fails."""
    wanted = engine.generate(QUICK)
    denoise = engine._backend.denoise

    def brittle(latents: torch.Tensor, *rest: object) -> torch.Tensor:
        if latents.shape[0] > 1 or 7 in rest[4]:  # type: ignore[operator]
            raise RuntimeError("illegal instruction")
        return denoise(latents, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(engine._backend, "denoise", brittle)
    good, bad = engine.submit(QUICK), engine.submit(replace(QUICK, seed=1))
    engine.step()
    engine._requests.running[1].images[0].slot = 7
    finish(engine)
    assert apart(good.result(), wanted) <= 2
    with pytest.raises(RuntimeError, match="illegal instruction"):
        bad.result()


def test_a_call_without_memory_is_repeated_smaller_and_remembered(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tensors of the failed call are freed first; the size that failed is not tried again."""
    wanted = engine.generate(QUICK)
    denoise, calls = engine._backend.denoise, list[int]()
    failed = WeakSet[torch.Tensor]()

    def small(latents: torch.Tensor, *rest: object) -> torch.Tensor:
        calls.append(len(latents))
        assert not failed, "a tensor of the failed call is alive"
        if len(latents) > 1:
            scratch = torch.zeros(8)
            failed.add(scratch)
            raise torch.OutOfMemoryError("out of memory")
        return denoise(latents, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(engine._backend, "denoise", small)
    pair = engine.submit(QUICK), engine.submit(replace(QUICK, seed=1))
    finish(engine)
    assert apart(pair[0].result(), wanted) <= 2 and pair[1].result().images.shape[0] == 1
    assert calls == [2, 1, 1, 1, 1]
    assert engine.stats().out_of_memory == 1


def test_an_engine_whose_device_is_lost_ends_and_says_so(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every later call would fail, too; the process that holds the engine starts again."""
    engine = Engine(base, EngineSettings(queue=3))

    def lost(*_: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nlong advice")

    monkeypatch.setattr(engine._backend, "denoise", lost)
    waiting = [engine.submit(replace(QUICK, seed=seed)) for seed in range(3)]
    engine.start()
    for future in waiting:
        with pytest.raises(
            Unavailable, match=r"device: CUDA error: an illegal memory access [a-z ]*;"
        ):
            future.result(30)
    engine._driver.finish()
    assert not engine.alive()
    with pytest.raises(Unavailable, match="another replica"):
        engine.submit(QUICK)
    engine.close()


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()]
)
def test_one_image_without_memory_is_told_with_its_size(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr(engine._backend, "denoise", full)
    with pytest.raises(Unavailable, match="too little free memory for one image of 64x64 pixels"):
        engine.generate(QUICK)


def test_a_vae_that_overflows_gives_an_error_and_no_black_picture(
    engine: Engine, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = base.vae.decode

    def overflowing(latents: torch.Tensor, **how: object) -> tuple[torch.Tensor, ...]:
        (pixels,) = decode(latents, **how)
        pixels[0, :, 0] = torch.nan
        return (pixels, *())

    good, bad = engine.submit(QUICK), engine.submit(replace(QUICK, seed=1))
    monkeypatch.setattr(base.vae, "decode", overflowing)
    finish(engine)
    for one in (good, bad):
        with pytest.raises(Diverged, match="vae: the pixels are not finite in float32"):
            one.result()


def test_numbers_out_of_range_are_an_error_and_no_black_picture(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(latents: torch.Tensor, *rest: object) -> torch.Tensor:
        return torch.full_like(latents, torch.inf)

    monkeypatch.setattr(engine._backend, "denoise", overflowing)
    with pytest.raises(Diverged, match="not finite"):
        engine.generate(QUICK)


def test_many_threads_are_served_by_one(base: Base, cats: list[Package]) -> None:
    engine = Engine(base, EngineSettings(max_rank=8, queue=4))
    engine.adapters.add(cats[0], 1)
    requests = [replace(QUICK, seed=i, adapters=CAT if i % 2 else ()) for i in range(8)]
    wanted = [engine.generate(request) for request in requests]
    engine.start()
    results: dict[int, ImageResult] = {}

    def client(i: int) -> None:
        results[i] = engine.generate(requests[i])

    threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert engine.alive()
    for i, one in enumerate(wanted):
        assert apart(results[i], one) <= 2
    engine.close()
    assert not engine.alive()


def test_closing_finishes_what_was_begun_or_says_that_it_did_not(
    base: Base, cats: list[Package]
) -> None:
    patient = Engine(base)
    future = patient.submit(QUICK)
    patient.start()
    patient.close()
    assert future.result().images.shape == (1, 64, 64, 3)
    with pytest.raises(Unavailable, match="shutting down"):
        patient.submit(QUICK)

    hasty = Engine(base)
    hasty.start()
    future = hasty.submit(replace(QUICK, steps=150))
    hasty.close(drain=False)
    with pytest.raises(Cancelled):
        future.result()


def test_the_digest_tells_engines_apart(base: Base, engine: Engine) -> None:
    assert engine.digest == Engine(base).digest
    other = replace(base, digest="sha256:" + "1" * 64)
    assert Engine(other).digest != engine.digest
    result = engine.generate(replace(QUICK, adapters=CAT))
    assert (result.backend, result.engine_digest) == ("torch", engine.digest)
    assert result.timings["total"] == pytest.approx(
        sum(s for phase, s in result.timings.items() if phase != "total")
    )
    assert "lora_requests_info" in {one.name for one in engine.metrics()}
