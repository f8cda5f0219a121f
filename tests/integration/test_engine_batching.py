"""One batch, many adapters: what is drawn together is what is drawn alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.adapter.package import Package
from services.engine import AdapterUse, Engine, EngineSettings, ImageRequest, ImageResult
from services.engine.backends.protocol import bank_inputs
from services.engine.banked import BankedUNet
from services.engine.layout import layout_of
from tests.tiny import tiny_adapter

TOLERANCE = 2  # of 255; batches of other sizes round differently
NAMES = ("one", "two", "three", "four")
PROMPT = "a photo of a cat"


@pytest.fixture(scope="module")
def packages(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    """Four adapters of four ranks and target sets."""
    folder = tmp_path_factory.mktemp("adapters")
    targets = (("attn",), ("attn", "ff"), ("attn", "ff", "proj"), ("attn", "text_encoder"))
    return {
        name: Package.open(
            tiny_adapter(
                tiny_model, folder / name, name=name, rank=rank, seed=rank, targets=targets[i]
            )
        )
        for i, (name, rank) in enumerate(zip(NAMES, (2, 3, 4, 8), strict=True))
    }


def make_engine(base: Path, packages: dict[str, Package], **settings: int) -> Engine:
    engine = Engine.load(base, settings=EngineSettings(**{"max_rank": 16, **settings}))  # type: ignore[arg-type]
    for package in packages.values():
        engine.adapters.add(package, 1)
    return engine


@pytest.fixture(scope="module")
def engine(tiny_model: Path, packages: dict[str, Package]) -> Iterator[Engine]:
    engine = make_engine(tiny_model, packages)
    yield engine
    engine.close()


def same(results: list[ImageResult], others: list[ImageResult]) -> None:
    for one, other in zip(results, others, strict=True):
        assert one.seeds == other.seeds and one.adapters == other.adapters
        difference = np.abs(one.images.astype(int) - other.images.astype(int))
        assert difference.max() <= TOLERANCE


MIXED = [
    ImageRequest(PROMPT, steps=6, adapters=(AdapterUse("one"),)),
    ImageRequest(PROMPT, steps=3, seed=5, adapters=(AdapterUse("two"),), scheduler="ddim"),
    ImageRequest("a red robot", steps=5, guidance_scale=1.0, adapters=(AdapterUse("four"),)),
    ImageRequest(PROMPT, steps=4, width=96, height=48, scheduler="lms"),
    ImageRequest(PROMPT, steps=7, images=2, adapters=(AdapterUse("three"),), scheduler="dpm++"),
    ImageRequest(PROMPT, steps=4, width=96, height=48, adapters=(AdapterUse("two"),)),
]


def test_four_adapters_in_one_unet_call_equal_four_calls(
    tiny_model: Path, packages: dict[str, Package], engine: Engine
) -> None:
    """To 2e-5 of the prediction's own size, with every row at its own timestep and prompt."""
    from services.engine.bank import Bank
    from services.engine.weights import pack

    layout = layout_of(engine.base)
    bank = Bank(layout, slots=4, max_rank=8, dtype=torch.float32, device="cpu")
    for slot, package in enumerate(packages.values(), start=1):
        host = pack(layout, package.lora(), max_rank=8, dtype=torch.float32)
        bank.write(slot, [(host, 1.0)])
    random = torch.Generator().manual_seed(0)
    inputs = (
        torch.randn(4, 4, 8, 8, generator=random),
        torch.tensor([900.0, 500.0, 20.0, 1.0]),
        torch.randn(4, 77, 40, generator=random),
        torch.randn(4, 24, generator=random),
        torch.full((4, 6), 64.0),
    )
    unet = BankedUNet(engine.base.unet, layout)
    with torch.inference_mode():
        slots = [3, 1, 4, 2]
        together = unet(*inputs, torch.tensor(slots), *bank_inputs(bank.view(slots), layout))
        for row, slot in enumerate(slots):
            alone = unet(
                *(i[row : row + 1] for i in inputs),
                torch.tensor([slot]),
                *bank_inputs(bank.view([slot]), layout),
            )
            torch.testing.assert_close(together[row : row + 1], alone, atol=2e-5, rtol=2e-5)
        none = torch.zeros(4, dtype=torch.int64)
        zero = unet(*inputs, none, *bank_inputs(bank.view([0]), layout))
        base = engine.base.unet(
            inputs[0],
            inputs[1],
            encoder_hidden_states=inputs[2],
            added_cond_kwargs={"text_embeds": inputs[3], "time_ids": inputs[4]},
        ).sample
    assert torch.equal(zero, base)  # slot 0 is the base, bit for bit
    assert (together - base).abs().flatten(1).amax(1).min() > 0.05


def test_steps_schedulers_sizes_and_adapters_mix(engine: Engine) -> None:
    singles = [engine.generate(request) for request in MIXED]
    before = engine.stats().calls
    together = engine.generate_many(MIXED)
    same(together, singles)
    calls = engine.stats().calls - before
    assert calls < sum(request.steps for request in MIXED), "nothing was drawn together"


def test_requests_join_while_others_are_under_way(engine: Engine) -> None:
    singles = [engine.generate(request) for request in MIXED]
    futures = []
    for request in MIXED:
        futures.append(engine.submit(request))
        engine.step()
        engine.step()
    while not all(future.done() for future in futures):
        engine.step()
    same([future.result() for future in futures], singles)


def test_the_ladder_pads_without_a_trace(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend with fixed batch sizes gets rows repeated, and their answers are dropped."""
    seen = []
    denoise = engine._backend.denoise

    def watched(latents: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(len(latents))
        return denoise(latents, *rest)  # type: ignore[arg-type]

    requests = MIXED[:3]  # 2 + 2 + 1 rows
    singles = [engine.generate(request) for request in requests]
    monkeypatch.setattr(engine._backend, "ladder", (1, 4, 8), raising=False)
    monkeypatch.setattr(engine._backend, "denoise", watched)
    same(engine.generate_many(requests), singles)
    assert set(seen) <= {1, 4, 8} and 8 in seen


def test_more_adapters_than_slots(tiny_model: Path, packages: dict[str, Package]) -> None:
    """Two slots for four adapters and a mixture: each waits its turn, none is overwritten."""
    roomy = make_engine(tiny_model, packages)
    tight = make_engine(tiny_model, packages, slots=2)
    uses = [(AdapterUse(name),) for name in NAMES] + [(AdapterUse("one"), AdapterUse("two"))]
    requests = [
        ImageRequest(PROMPT, steps=2 + i % 3, seed=i, adapters=uses[i % len(uses)])
        for i in range(12)
    ]
    wanted = roomy.generate_many(requests)
    same(tight.generate_many(requests), wanted)
    assert roomy.stats().swaps == 5
    assert tight.stats().swaps > 5
    assert tight.stats().slots_in_use == 0


def test_a_stream_for_one_adapter_does_not_starve_another(
    tiny_model: Path, packages: dict[str, Package]
) -> None:
    engine = make_engine(tiny_model, packages, slots=1, patience=2)
    stream = ImageRequest(PROMPT, steps=3, adapters=(AdapterUse("one"),))
    futures = [engine.submit(stream)]
    engine.step()
    waiting = engine.submit(replace(stream, adapters=(AdapterUse("two"),)))
    for _ in range(40):
        if waiting.done():
            break
        futures.append(engine.submit(stream))
        engine.step()
    assert waiting.done()
    while not all(future.done() for future in futures):
        engine.step()


def test_an_adapter_is_written_once_while_it_stays(
    tiny_model: Path, packages: dict[str, Package]
) -> None:
    engine = make_engine(tiny_model, packages)
    for _ in range(3):
        engine.generate(ImageRequest(PROMPT, steps=1, adapters=(AdapterUse("one"),)))
    assert engine.stats().swaps == 1
    engine.generate(ImageRequest(PROMPT, steps=1, adapters=(AdapterUse("one", weight=0.5),)))
    assert engine.stats().swaps == 2
