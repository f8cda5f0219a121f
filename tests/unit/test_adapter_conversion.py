"""Adapter files of other tools: in and out again without a bit changed."""

import json
from pathlib import Path

import numpy as np
import pytest

from atelier.adapter.conversion import export_lora, import_lora, projection_shapes
from atelier.adapter.package import Package
from atelier.adapter.safetensors_file import read_tensors, write_tensors
from atelier.adapter.safetensors_header import read_header
from atelier.data.manifest import BaseRef
from atelier.errors import AdapterRejected, BadInput
from atelier.stores.base_files import base_digest, base_files

UNET = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "encoder.layers.0.self_attn.q_proj"
RANK, ALPHA = 2, 6.0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """As much of a base as its headers tell: two linear layers, one norm."""
    folder = tmp_path / "base"
    index = {"unet": ["diffusers", "X"], "text_encoder": ["transformers", "Y"]}
    weights = {
        "unet": {f"{UNET}.weight": np.zeros((4, 4), np.float32)},
        "text_encoder": {
            f"text_model.{TEXT}.weight": np.zeros((6, 6), np.float32),
            "text_model.final_layer_norm.weight": np.zeros(6, np.float32),
        },
    }
    for name, tensors in weights.items():
        (folder / name).mkdir(parents=True)
        stem = "diffusion_pytorch_model" if name == "unet" else "model"
        write_tensors(folder / name / f"{stem}.safetensors", tensors)
        (folder / name / "config.json").write_text("{}")
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def factors(width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = ((RANK, width), (width, RANK))
    down, up = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    return down, up


def kohya_file(path: Path, names: dict[str, int]) -> Path:
    tensors = {}
    for seed, (name, width) in enumerate(names.items()):
        down, up = factors(width, seed)
        tensors[f"{name}.lora_down.weight"] = down
        tensors[f"{name}.lora_up.weight"] = up
        tensors[f"{name}.alpha"] = np.asarray(ALPHA, np.float32)
    write_tensors(path, tensors)
    return path


KOHYA = {
    f"lora_unet_{UNET.replace('.', '_')}": 4,
    f"lora_te1_text_model_{TEXT.replace('.', '_')}": 6,
}
CANONICAL = [f"text_encoder.text_model.{TEXT}", f"unet.{UNET}"]


def package_of(file: Path, folder: Path, base: Path, trigger: str = "") -> Package:
    ref, files = BaseRef(id=str(base), digest=base_digest(base)), base_files(base)
    return import_lora(file, folder, name="thumb", base=ref, base_files=files, trigger=trigger)


def imported(tmp_path: Path, base: Path) -> Package:
    file = kohya_file(tmp_path / "kohya.safetensors", KOHYA)
    return package_of(file, tmp_path / "package", base, trigger="sks")


def test_a_base_tells_its_projections_by_headers_alone(base: Path) -> None:
    assert projection_shapes(base_files(base)) == {f"unet.{UNET}": (4, 4), CANONICAL[0]: (6, 6)}


def test_weights_that_no_base_is_loaded_from_are_no_projections(base: Path) -> None:
    """A variant, or a file that another tool left beside them."""
    for stem in ("diffusion_pytorch_model.fp16", "another"):
        tensors = {f"{UNET}.weight": np.zeros((8, 8), np.float32)}
        write_tensors(base / "unet" / f"{stem}.safetensors", tensors)
    assert projection_shapes(base_files(base))[f"unet.{UNET}"] == (4, 4)


def test_kohya_comes_in_with_its_scale(tmp_path: Path, base: Path) -> None:
    package = imported(tmp_path, base)
    lora = package.lora()
    assert list(lora) == CANONICAL
    assert all(one.scale == ALPHA / RANK for one in lora.values())
    assert (package.manifest.name, package.manifest.trigger) == ("thumb", "sks")
    down, _ = factors(4, 0)
    np.testing.assert_array_equal(lora[f"unet.{UNET}"].A, down)


def test_kohya_goes_out_as_it_came_in(tmp_path: Path, base: Path) -> None:
    package = imported(tmp_path, base)
    export_lora(package, tmp_path / "out.safetensors", "kohya")
    before = read_tensors(tmp_path / "kohya.safetensors")
    after = read_tensors(tmp_path / "out.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


def test_peft_goes_out_and_comes_back_as_the_same_adapter(tmp_path: Path, base: Path) -> None:
    package = imported(tmp_path, base)
    file = tmp_path / "peft.safetensors"
    export_lora(package, file, "peft")
    assert "lora_adapter_metadata" in read_header(file).metadata
    again = package_of(file, tmp_path / "again", base, trigger="sks")
    assert again.digest == package.digest


def test_an_import_declares_its_class(tmp_path: Path, base: Path) -> None:
    file = kohya_file(tmp_path / "kohya.safetensors", KOHYA)
    ref, files = BaseRef(id=str(base), digest=base_digest(base)), base_files(base)
    told = {"name": "thumb", "base": ref, "base_files": files, "trigger": "sks cat"}
    assert import_lora(file, tmp_path / "a", **told, noun="cat").manifest.noun == "cat"
    assert import_lora(file, tmp_path / "b", **told).manifest.noun == ""
    for noun, said in (("a cat", "has an article"), ("dog", "must end with the class 'dog'")):
        with pytest.raises(AdapterRejected, match=said):
            import_lora(file, tmp_path / "c", **told, noun=noun)


def test_an_adapter_of_another_base_is_refused_by_name(tmp_path: Path, base: Path) -> None:
    wrong = {f"lora_unet_{UNET.replace('.', '_')}": 8}
    file = kohya_file(tmp_path / "wide.safetensors", wrong)
    with pytest.raises(AdapterRejected, match=r"8 x 8, the base has 4 x 4"):
        package_of(file, tmp_path / "package", base)
    assert not (tmp_path / "package").exists()


def test_modules_that_the_base_lacks_are_refused(tmp_path: Path, base: Path) -> None:
    file = kohya_file(tmp_path / "x.safetensors", {"lora_unet_up_blocks_0_attentions_9_proj_in": 4})
    with pytest.raises(AdapterRejected, match="up_blocks_0"):
        package_of(file, tmp_path / "package", base)


def test_an_unknown_format_says_which_there_are(tmp_path: Path, base: Path) -> None:
    with pytest.raises(BadInput, match="did you mean kohya"):
        export_lora(imported(tmp_path, base), tmp_path / "out.safetensors", "kohia")
