"""Adapter files as diffusers reads and writes them: every projection with its true scale."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict

from atelier.adapter import tensor_names
from atelier.adapter.package import ADAPTER, Package, write_package
from atelier.adapter.single_file import read_single, tensors_of, write_kohya
from atelier.data.manifest import BaseRef

BASE = BaseRef(id="tiny", digest="sha256:" + "0" * 64)
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
TARGETS = (".to_q", ".to_out.0", ".ff.net.2", ".proj_in", ".q_proj", ".fc1")


@pytest.fixture
def pipeline(tiny_model: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(tiny_model)


def linears(pipeline: StableDiffusionXLPipeline) -> dict[str, tuple[int, int]]:
    """The base's adaptable projections by canonical module: (in, out) features."""
    found = {}
    for component in COMPONENTS:
        for name, module in getattr(pipeline, component).named_modules():
            key = tensor_names.parse(f"{component}.{name}.lora_A.weight")
            if key is not None and key.module.endswith(TARGETS):
                found[key.module] = (module.in_features, module.out_features)
    return found


@pytest.fixture
def package(pipeline: StableDiffusionXLPipeline, tmp_path: Path) -> Package:
    """Ranks and alphas that differ from projection to projection and from one another."""
    draw, tensors = np.random.default_rng(0), {}
    for index, (module, (width, out)) in enumerate(linears(pipeline).items()):
        rank = 2 + index % 3
        tensors[f"{module}.lora_A.weight"] = draw.normal(size=(rank, width)).astype(np.float32)
        tensors[f"{module}.lora_B.weight"] = draw.normal(size=(out, rank)).astype(np.float32)
        tensors[f"{module}.alpha"] = np.array(1 + index % 5, np.float32)
    return write_package(tmp_path / "package", tensors, name="tiny", base=BASE)


def updates(pipeline: StableDiffusionXLPipeline) -> dict[str, Any]:
    """What the loaded adapter adds to each projection's weight, by canonical module."""
    found = {}
    for component in COMPONENTS:
        for name, module in getattr(pipeline, component).named_modules():
            if hasattr(module, "get_delta_weight"):
                (adapter,) = module.active_adapters
                key = tensor_names.parse(f"{component}.{name}.lora_A.weight")
                assert key is not None
                found[key.module] = module.get_delta_weight(adapter).detach().numpy()
    return found


def assert_same(found: dict[str, Any], package: Package) -> None:
    expected = {module: one.scale * one.B @ one.A for module, one in package.lora().items()}
    assert set(found) == set(expected)
    for module, update in expected.items():
        np.testing.assert_allclose(found[module], update, rtol=1e-5, atol=1e-6, err_msg=module)


def test_a_package_loads_in_diffusers(
    pipeline: StableDiffusionXLPipeline, package: Package
) -> None:
    pipeline.load_lora_weights(str(package.path), weight_name=ADAPTER)
    assert_same(updates(pipeline), package)


def test_a_kohya_export_loads_in_diffusers(
    pipeline: StableDiffusionXLPipeline, package: Package, tmp_path: Path
) -> None:
    """The UNet with one alpha: of several alphas diffusers loses all but one, of flattened text
    encoders the attention. What we read back ourselves is whole (see the unit tests)."""
    lora = {
        module: replace(one, alpha=3.0)
        for module, one in package.lora().items()
        if module.startswith("unet.")
    }
    plain = write_package(tmp_path / "plain", tensors_of(lora), name="tiny", base=BASE)
    write_kohya(tmp_path / "kohya.safetensors", lora, plain.manifest)
    pipeline.load_lora_weights(str(tmp_path), weight_name="kohya.safetensors")
    assert_same(updates(pipeline), plain)


def test_what_diffusers_saves_is_read(
    pipeline: StableDiffusionXLPipeline, package: Package, tmp_path: Path
) -> None:
    """A file of PEFT's own state, text encoders flattened as transformers 5 has them."""
    pipeline.load_lora_weights(str(package.path), weight_name=ADAPTER, adapter_name="mine")
    layers, metadata = {}, {}
    for component in COMPONENTS:
        model = getattr(pipeline, component)
        state = get_peft_model_state_dict(model, adapter_name="mine")
        layers[f"{component}_lora_layers"] = convert_state_dict_to_diffusers(state)
        metadata[f"{component}_lora_adapter_metadata"] = model.peft_config["mine"].to_dict()
    StableDiffusionXLPipeline.save_lora_weights(tmp_path / "saved", **layers, **metadata)

    (saved,) = (tmp_path / "saved").iterdir()
    read, expected = read_single(saved, []), package.lora()
    assert set(read) == set(expected)
    for module, one in expected.items():
        assert np.array_equal(read[module].A, one.A)
        assert read[module].scale == pytest.approx(one.scale), module


def test_original_block_names_are_those_that_diffusers_maps() -> None:
    """SDXL's own layout, two layers a block: all attentions that its original code has."""
    modules = [f"unet.down_blocks.{b}.attentions.{n}.proj_in" for b in (1, 2) for n in (0, 1)]
    modules += [f"unet.up_blocks.{b}.attentions.{n}.proj_in" for b in (0, 1) for n in (0, 1, 2)]
    modules.append("unet.mid_block.attentions.0.proj_in")
    original = {
        module: name
        for name, module in tensor_names.kohya_modules(modules).items()
        if name != tensor_names.kohya_module(module)
    }
    assert set(original) == set(modules)
    state = {}
    for number, module in enumerate(modules):
        for ending in ("lora_down.weight", "lora_up.weight", "alpha"):
            state[f"{original[module]}.{ending}"] = torch.full((1, 1), float(number))

    theirs, alphas = StableDiffusionXLPipeline.lora_state_dict(
        state, unet_config=SimpleNamespace(layers_per_block=2)
    )

    assert len(alphas) == len(modules)
    found = {tensor_names.canonical(name): int(value) for name, value in theirs.items()}
    for number, module in enumerate(modules):
        assert found[f"{module}.lora_A.weight"] == found[f"{module}.lora_B.weight"] == number
