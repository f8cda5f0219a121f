"""The engine draws what StableDiffusionXLPipeline draws with the same adapters, to 2/255.

The oracle is diffusers itself: `load_lora_weights` on our packages and `set_adapters`. What is
compared is every pixel; the adapters change its mean by five times the tolerance and more.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from numpy.typing import NDArray

from atelier.adapter.package import Package
from atelier.contract.limits import SCHEDULERS
from services.engine import AdapterUse, Engine, EngineSettings, ImageRequest
from services.engine.schedulers import CLASSES
from tests.tiny import tiny_adapter

TOLERANCE = 2  # of 255
PLAIN = 10  # of 255, mean over the picture: what an adapter must change to count
PROMPT = "a photo of a cat on the beach"
EVERYWHERE = ("attn", "ff", "proj", "time", "text_encoder")


@pytest.fixture(scope="module")
def packages(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    """`all`: alpha twice its rank, everywhere; `attn`: alpha half its rank, attention alone."""
    folder = tmp_path_factory.mktemp("adapters")
    made = {
        "all": {"rank": 4, "alpha": 8.0, "scale": 0.3, "targets": EVERYWHERE},
        "attn": {"rank": 6, "alpha": 3.0, "scale": 1.4, "targets": ("attn",)},
    }
    return {
        name: Package.open(tiny_adapter(tiny_model, folder / name, name=name, seed=i, **options))
        for i, (name, options) in enumerate(made.items(), start=1)
    }


@pytest.fixture(scope="module")
def engine(tiny_model: Path, packages: dict[str, Package]) -> Iterator[Engine]:
    engine = Engine.load(tiny_model, settings=EngineSettings(slots=4, max_rank=16))
    for package in packages.values():
        engine.adapters.add(package, 1)
    yield engine
    engine.close()


class Oracle:
    """diffusers, as its users call it."""

    def __init__(
        self, base: Path, packages: dict[str, Package], dtype: torch.dtype = torch.float32
    ) -> None:
        self.plain = self._pipeline(base, dtype)
        self.adapted = self._pipeline(base, dtype)
        for name, package in packages.items():
            self.adapted.load_lora_weights(
                package.path, weight_name="adapter.safetensors", adapter_name=name
            )
        self.config = self.plain.scheduler.config

    def _pipeline(self, base: Path, dtype: torch.dtype) -> Any:
        pipeline = StableDiffusionXLPipeline.from_pretrained(base, torch_dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def draw(self, request: ImageRequest) -> NDArray[np.int64]:
        """The picture of a request for one image."""
        pipeline = self.plain
        if request.adapters:
            pipeline = self.adapted
            pipeline.set_adapters(
                [use.name for use in request.adapters], [use.weight for use in request.adapters]
            )
        pipeline.scheduler = CLASSES[request.scheduler].from_config(self.config)  # type: ignore[attr-defined]
        image = pipeline(
            request.prompt,
            negative_prompt=request.negative_prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            width=request.width,
            height=request.height,
            generator=torch.Generator().manual_seed(request.seed),
        ).images[0]
        return np.asarray(image).astype(np.int64)


@pytest.fixture(scope="module")
def diffusers(tiny_model: Path, packages: dict[str, Package]) -> Oracle:
    return Oracle(tiny_model, packages)


def check(engine: Engine, diffusers: Oracle, *requests: ImageRequest) -> list[NDArray[np.int64]]:
    """Draws all requests together and holds each against diffusers' picture."""
    pictures = []
    for request, result in zip(requests, engine.generate_many(requests), strict=True):
        picture, wanted = result.images[0].astype(np.int64), diffusers.draw(request)
        assert picture.shape == wanted.shape
        assert np.abs(picture - wanted).max() <= TOLERANCE, request
        pictures.append(picture)
    return pictures


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_with_and_without_an_adapter(
    engine: Engine, diffusers: Oracle, scheduler: str, guidance: float
) -> None:
    def request(*adapters: AdapterUse) -> ImageRequest:
        return ImageRequest(
            PROMPT,
            scheduler=scheduler,
            guidance_scale=guidance,
            steps=6,
            seed=11,
            adapters=adapters,
        )

    base, adapted = check(engine, diffusers, request(), request(AdapterUse("all")))
    assert np.abs(base - adapted).mean() > PLAIN


def test_two_weighted_adapters_on_one_request(engine: Engine, diffusers: Oracle) -> None:
    requests = [
        ImageRequest(PROMPT, steps=5, seed=2, adapters=uses)
        for uses in (
            (AdapterUse("all"), AdapterUse("attn", weight=0.6)),
            (AdapterUse("attn", weight=0.6),),
            (AdapterUse("all", weight=0.5),),
            (AdapterUse("all", weight=-0.5),),
        )
    ]
    both, attn, half, minus = check(engine, diffusers, *requests)
    for other in (attn, half):
        assert np.abs(both - other).mean() > PLAIN
    assert np.abs(half - minus).mean() > PLAIN


def test_the_text_encoders_alone(
    tiny_model: Path, packages: dict[str, Package], tmp_path: Path
) -> None:
    """An adapter that changes nothing but how the prompt is read, and the negative prompt too."""
    folder = tiny_adapter(
        tiny_model, tmp_path / "text", name="text", scale=0.9, targets=("text_encoder",)
    )
    package = Package.open(folder)
    engine, oracle = Engine.load(tiny_model), Oracle(tiny_model, {"text": package})
    engine.adapters.add(package)
    uses = (AdapterUse("text"),)
    requests = [
        ImageRequest(PROMPT, steps=5, negative_prompt=negative, adapters=adapters)
        for negative, adapters in ((None, ()), (None, uses), ("a blurry dog", uses))
    ]
    base, adapted, negative = check(engine, oracle, *requests)
    assert np.abs(base - adapted).mean() > PLAIN
    assert np.abs(adapted - negative).mean() > PLAIN
    # What was encoded under an adapter is not remembered for the base. Alone it is another size of
    # batch, which some processors round otherwise by a bit.
    check(engine, oracle, requests[0])


@pytest.mark.parametrize("negative", [None, "", "blurry night"])
def test_negative_prompts(engine: Engine, diffusers: Oracle, negative: str | None) -> None:
    check(engine, diffusers, ImageRequest(PROMPT, negative_prompt=negative, steps=5))


def test_the_three_negative_prompts_are_three_pictures(engine: Engine) -> None:
    """None is zeros where the base says so; an empty one is encoded."""
    none, empty, words = (
        engine.generate(ImageRequest(PROMPT, negative_prompt=negative, steps=5)).images[0]
        for negative in (None, "", "blurry night")
    )
    assert not np.array_equal(none, empty) and not np.array_equal(empty, words)


def test_a_prompt_over_77_tokens_is_cut_where_diffusers_cuts_and_said_so(
    engine: Engine, diffusers: Oracle
) -> None:
    words = [*["red"] * 74, "house", "robot", "flower"]  # a token each
    request = ImageRequest(" ".join(words), steps=4)
    check(engine, diffusers, request)
    (warning,) = engine.generate(request).warnings
    assert "robot" in warning and "flower" in warning and "house" not in warning
    assert engine.generate(ImageRequest(PROMPT, steps=1)).warnings == ()


def test_other_sizes(engine: Engine, diffusers: Oracle) -> None:
    check(
        engine,
        diffusers,
        ImageRequest(PROMPT, steps=4, width=96, height=48, adapters=(AdapterUse("all"),)),
        ImageRequest(PROMPT, steps=4, width=40, height=72),
    )


def test_image_i_is_what_a_request_with_seed_plus_i_gives(
    engine: Engine, diffusers: Oracle
) -> None:
    many = engine.generate(
        ImageRequest(PROMPT, steps=5, seed=2**64 - 2, images=3, scheduler="euler_a")
    )
    assert many.seeds == (2**64 - 2, 2**64 - 1, 0)
    for seed, image in zip(many.seeds, many.images, strict=True):
        wanted = diffusers.draw(ImageRequest(PROMPT, steps=5, seed=seed, scheduler="euler_a"))
        assert np.abs(image.astype(np.int64) - wanted).max() <= TOLERANCE


def test_the_base_is_left_as_it_was(tiny_model: Path, packages: dict[str, Package]) -> None:
    engine = Engine.load(tiny_model)
    parts = ("unet", "text_encoder", "text_encoder_2", "vae")
    before = {
        (part, key): value.clone()
        for part in parts
        for key, value in getattr(engine.base, part).state_dict().items()
    }
    engine.adapters.add(packages["all"], 1)
    first = engine.generate(ImageRequest(PROMPT, steps=3))
    engine.generate(ImageRequest(PROMPT, steps=3, adapters=(AdapterUse("all"),)))
    again = engine.generate(ImageRequest(PROMPT, steps=3))
    assert np.array_equal(first.images, again.images)  # bit for bit
    for part in parts:
        for key, value in getattr(engine.base, part).state_dict().items():
            assert torch.equal(value, before[part, key])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision(tiny_model: Path, packages: dict[str, Package], precision: str) -> None:
    """Other orders of summing round visibly at 8 or 11 bits; on average the pictures agree."""
    engine = Engine.load(tiny_model, settings=EngineSettings(precision=precision, device="cpu"))
    engine.adapters.add(packages["attn"], 1)
    assert engine.base.vae.dtype == (torch.float32 if precision == "fp16" else torch.bfloat16)
    oracle = Oracle(tiny_model, {"attn": packages["attn"]}, engine.base.dtype)
    base, adapted = (
        ImageRequest(PROMPT, steps=4, adapters=uses) for uses in ((), (AdapterUse("attn"),))
    )
    for request in (base, adapted):
        picture = engine.generate(request).images[0].astype(np.int64)
        assert np.abs(picture - oracle.draw(request)).mean() < 3
    assert np.abs(oracle.draw(base) - oracle.draw(adapted)).mean() > PLAIN
