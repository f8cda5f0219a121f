"""Every backend draws what torch draws, to 2/255: mixed adapters, swaps in mid-flight, the base."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atelier.adapter.package import Package
from atelier.errors import BadInput
from pipelines.compile.request import CompileRequest
from pipelines.compile.unet import compile_unet
from services.engine import AdapterUse, Engine, EngineSettings, ImageRequest
from services.engine.backends.tensorrt import load_tensorrt
from services.engine.settings import BACKENDS
from tests.tiny import tiny_adapter

TOLERANCE = 2  # of 255
PLAIN = 10  # of 255, mean over the picture: what an adapter must change to count
PROMPT = "a photo of a cat on the beach"
BANK = {"slots": 2, "max_rank": 12}
LIBRARIES = EngineSettings.read().tensorrt


def missing(backend: str) -> str | None:
    """Why a backend cannot run here."""
    if backend == "tensorrt":
        if not torch.cuda.is_available():
            return "TensorRT: torch sees no CUDA GPU on this machine"
        try:
            load_tensorrt(LIBRARIES)
        except BadInput as error:
            return str(error)
    return None


@pytest.fixture(scope="module")
def module_patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module", params=BACKENDS)
def settings(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> EngineSettings:
    """Of an engine of each kind, in fp32, with its UNet compiled."""
    backend = request.param
    if reason := missing(backend):
        pytest.skip(reason)
    # A GPU's convolutions would round to TF32, and the VAE's are torch's with every backend.
    monkeypatch = request.getfixturevalue("module_patch")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    device = "cuda" if backend == "tensorrt" else "cpu"
    if backend == "torch":
        return EngineSettings(device=device, precision="fp32", **BANK)
    fixed = {"batches": (2, 4, 8), "sizes": ((64, 64), (48, 32)), "slots": 2, "rank": 12}
    asked = CompileRequest(
        str(tiny_model),
        backend=backend,
        precision="fp32",
        device=device,
        tensorrt=LIBRARIES,
        **(fixed if backend == "tensorrt" else {}),  # type: ignore[arg-type]
    )
    folder = tmp_path_factory.mktemp(backend) / "compiled"
    compile_unet(asked, output=folder)
    return EngineSettings(
        backend=backend,
        device=device,
        precision="fp32",
        compiled=str(folder),
        tensorrt=LIBRARIES,
        **BANK,
    )


@pytest.fixture(scope="module")
def packages(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    """Adapters of other ranks and targets each; `wide` is as wide as the bank."""
    folder = tmp_path_factory.mktemp("adapters")
    everywhere = ("attn", "ff", "proj", "time", "text_encoder")
    made = {
        "all": {"rank": 4, "alpha": 8.0, "scale": 0.3, "targets": everywhere},
        "attn": {"rank": 6, "alpha": 3.0, "scale": 1.4, "targets": ("attn",)},
        "wide": {"rank": 12, "scale": 0.6, "targets": ("attn", "ff")},
    }
    return {
        name: Package.open(tiny_adapter(tiny_model, folder / name, name=name, seed=i, **options))  # type: ignore[arg-type]
        for i, (name, options) in enumerate(made.items(), start=1)
    }


def make_engine(
    base: Path, settings: EngineSettings, packages: dict[str, Package]
) -> Iterator[Engine]:
    engine = Engine.load(base, settings=settings)
    for package in packages.values():
        engine.adapters.add(package, 1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def engine(
    tiny_model: Path, settings: EngineSettings, packages: dict[str, Package]
) -> Iterator[Engine]:
    yield from make_engine(tiny_model, settings, packages)


@pytest.fixture(scope="module")
def torch_alone(tiny_model: Path, packages: dict[str, Package]) -> Iterator[Engine]:
    """The reference, which tests/integration/test_engine_equality.py holds against diffusers."""
    settings = EngineSettings(device="cpu", precision="fp32", slots=4, max_rank=24)
    yield from make_engine(tiny_model, settings, packages)


def asked(*names: str, **fields: object) -> ImageRequest:
    adapters = tuple(AdapterUse(name) for name in names)
    return replace(ImageRequest(PROMPT, steps=5, adapters=adapters), **fields)  # type: ignore[arg-type]


def drawn(engine: Engine, *requests: ImageRequest) -> list[NDArray[np.int64]]:
    return [result.images[0].astype(np.int64) for result in engine.generate_many(requests)]


def check(engine: Engine, torch_alone: Engine, *requests: ImageRequest) -> list[NDArray[np.int64]]:
    """Draws all requests together and holds each against torch's picture of it alone."""
    pictures = drawn(engine, *requests)
    for request, picture in zip(requests, pictures, strict=True):
        (wanted,) = drawn(torch_alone, request)
        assert np.abs(picture - wanted).max() <= TOLERANCE, request
    return pictures


def test_mixed_adapters_steps_and_schedulers_in_one_batch(
    engine: Engine, torch_alone: Engine
) -> None:
    before = engine.stats().calls
    base, everywhere, attention = check(
        engine,
        torch_alone,
        asked(seed=3),
        asked("all", seed=3),
        asked("attn", seed=3, scheduler="dpm++", steps=6),
    )
    assert engine.stats().calls - before < 16, "nothing was drawn together"
    assert np.abs(base - everywhere).mean() > PLAIN
    assert np.abs(base - attention).mean() > PLAIN


def test_two_weighted_adapters_in_one_slot(engine: Engine, torch_alone: Engine) -> None:
    uses = (AdapterUse("all", weight=0.5), AdapterUse("attn", weight=-0.7))
    both, one = check(engine, torch_alone, asked(adapters=uses), asked("all"))
    assert np.abs(both - one).mean() > PLAIN


def test_the_whole_rank_of_the_bank_and_other_sizes(engine: Engine, torch_alone: Engine) -> None:
    check(
        engine,
        torch_alone,
        asked("wide", guidance_scale=1.0),
        asked("wide", width=48, height=32),
        asked(width=48, height=32, guidance_scale=1.0),
    )


def test_an_adapter_takes_a_slot_over_while_another_is_being_drawn_with(
    engine: Engine, torch_alone: Engine
) -> None:
    """Two slots, three adapters: `wide` comes into the slot that `all` had, `attn` draws on."""
    backend = engine._backend
    drawn(engine, asked("all", steps=1))
    long = engine.submit(asked("attn", steps=12, seed=4))
    assert engine.step() and not long.done()
    swaps = engine.stats().swaps
    (wide,) = drawn(engine, asked("wide", seed=5))
    assert engine.stats().swaps > swaps and not long.done()
    while not long.done():
        engine.step()
    (attention,) = (image.astype(np.int64) for image in long.result().images)
    wanted = drawn(torch_alone, asked("wide", seed=5), asked("attn", steps=12, seed=4))
    for picture, alone in zip((wide, attention), wanted, strict=True):
        assert np.abs(picture - alone).max() <= TOLERANCE
    assert engine._backend is backend


def test_a_new_version_draws_while_the_old_one_goes_on(
    tiny_model: Path, settings: EngineSettings, cats: list[Package]
) -> None:
    """What was asked for before the swap is drawn with what it was asked for."""
    engine = Engine.load(tiny_model, settings=settings)
    alone = Engine.load(tiny_model, settings=EngineSettings(device="cpu", precision="fp32"))
    for version in (1, 2):
        alone.adapters.add(cats[version - 1], version)
    engine.adapters.add(cats[0], 1)
    old = engine.submit(asked("cat", steps=6))
    engine.step()
    engine.adapters.add(cats[1], 2)
    engine.adapters.default("cat", 2)
    (new,) = drawn(engine, asked("cat", steps=3))
    while not old.done():
        engine.step()
    uses = [(AdapterUse("cat", version=version),) for version in (1, 2)]
    first, second = drawn(alone, asked(adapters=uses[0], steps=6), asked(adapters=uses[1], steps=3))
    assert np.abs(old.result().images[0].astype(np.int64) - first).max() <= TOLERANCE
    assert np.abs(new - second).max() <= TOLERANCE
    assert np.abs(first - second).mean() > PLAIN


def test_without_adapters_it_is_the_base_beside_others_too(
    engine: Engine, torch_alone: Engine
) -> None:
    alone, _, beside = check(engine, torch_alone, asked(seed=1), asked("all"), asked(seed=1))
    assert np.abs(alone - beside).max() <= TOLERANCE


def test_the_engine_says_what_drew(engine: Engine, settings: EngineSettings) -> None:
    result = engine.generate(asked(steps=1))
    assert result.backend == engine.backend == settings.backend
    assert result.engine_digest == engine.digest
    if settings.compiled:
        assert engine.describe()["compiled"] is not None
        assert next(engine.base.unet.parameters()).is_meta, "the UNet is in memory twice"
