"""What only a GPU can show: loss scaling in fp16, 8-bit AdamW, the engine in half precision."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.adapter.package import Package
from atelier.data.recipe import Recipe
from services.engine import AdapterUse, Engine, EngineSettings, ImageRequest
from tests.training import make_studio, recipe, unbroken_and_resumed

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch sees no CUDA GPU on this machine"
)

STATE_AT_8 = "checkpoints/step-00000008/state.pt"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and pictures."""
    return make_studio(tmp_path_factory.mktemp("studio"))


def large(studio: Path, **train: str) -> Recipe:
    """Pictures of so many tokens that attention's gradients are summed from several blocks."""
    changes = {f"stages__0__train__{name}": value for name, value in train.items()}
    return recipe(studio, stages__0__dataset__resolution=512, **changes)


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Those of nested dictionaries: how bitsandbytes nests its state depends on its version."""
    if isinstance(value, torch.Tensor):
        yield value
    for inner in value.values() if isinstance(value, dict) else ():
        yield from tensors_in(inner)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_run_ends_bit_for_bit_where_the_unbroken_run_ends(
    studio: Path, tmp_path: Path, precision: str
) -> None:
    if precision == "bf16" and not torch.cuda.is_bf16_supported():
        pytest.skip("this GPU has no bf16")
    unbroken, resumed = unbroken_and_resumed(large(studio, precision=precision), tmp_path, until=5)
    assert resumed.package.digest == unbroken.package.digest
    assert any(pair.B.any() for pair in unbroken.package.lora().values())


def test_the_loss_scale_of_fp16_goes_on_where_it_was(studio: Path, tmp_path: Path) -> None:
    unbroken_and_resumed(recipe(studio, stages__0__train__precision="fp16"), tmp_path, until=5)
    one, other = (
        torch.load(tmp_path / run / STATE_AT_8, map_location="cpu", weights_only=True)
        for run in ("unbroken", "resumed")
    )
    assert one["optimiser"]["scaler"]["scale"] > 1
    assert one["optimiser"]["scaler"] == other["optimiser"]["scaler"]


def test_8_bit_adamw_resumes_bit_for_bit(studio: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: no 8-bit AdamW")
    asked = large(studio, optimizer="adamw8bit")
    unbroken, resumed = unbroken_and_resumed(asked, tmp_path, until=5)
    assert resumed.package.digest == unbroken.package.digest
    state = torch.load(tmp_path / "unbroken" / STATE_AT_8, weights_only=True)
    assert torch.uint8 in {one.dtype for one in tensors_in(state["optimiser"]["rule"]["state"])}


def test_fp16_on_a_gpu_draws_what_fp32_draws_on_a_cpu(
    tiny_model: Path, cats: list[Package]
) -> None:
    requests = [
        ImageRequest("a photo of a cat on the beach", steps=4, seed=3, adapters=uses)
        for uses in ((), (AdapterUse("cat"),))
    ]
    drawn = []
    for device, precision in (("cpu", "fp32"), ("cuda", "fp16")):
        settings = EngineSettings(device=device, precision=precision, slots=1)
        engine = Engine.load(tiny_model, settings=settings)
        engine.adapters.add(cats[0], 1)
        results = engine.generate_many(requests)
        drawn.append([result.images[0].astype(np.int64) for result in results])
        engine.close()
    (base, adapted), half = drawn
    # In fp16 on a CPU the mean difference is a quarter of a level of 255, in bf16 two, and what the
    # adapter does is thirty. A GPU sums in other orders; its VAE's convolutions round to TF32.
    for wanted, picture in zip((base, adapted), half, strict=True):
        assert np.abs(wanted - picture).mean() < 1
    assert np.abs(base - adapted).mean() > 10
