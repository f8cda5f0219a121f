"""A base's digest is that of what is loaded, and a base that is not there is asked for clearly."""

import json
import shutil
from pathlib import Path

import pytest

from atelier.errors import BaseError, Unavailable
from atelier.files import digest_files
from atelier.stores.base_files import base_digest, base_files, resolve_base, scorer_files
from atelier.stores.model_files import only


def base(folder: Path) -> Path:
    """The files of a base; their content does not matter to a digest."""
    for name, file in (
        ("unet", "config.json"),
        ("unet", "diffusion_pytorch_model.safetensors"),
        ("tokenizer", "merges.txt"),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / file).write_text(f"{name}/{file}")
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "_name_or_path": ["never", "a folder"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "feature_extractor": [None, None],
        "force_zeros_for_empty_prompt": True,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_the_digest_follows_what_is_loaded(tmp_path: Path) -> None:
    first, second = base(tmp_path / "a"), base(tmp_path / "b")
    digest = base_digest(first)
    assert base_digest(second) == digest
    for unrelated in ("README.md", "unet/model.fp16.safetensors", "unet/model.onnx"):
        (second / unrelated).write_text("x")
    (second / "scorers").mkdir()
    (second / "scorers" / "model.safetensors").write_text("x")
    assert base_digest(second) == digest
    seen = {digest}
    for file in sorted(path for path in first.rglob("*") if path.is_file()):
        old = file.read_text()
        file.write_text(old + " ")
        seen.add(base_digest(first))
        file.write_text(old)
    assert len(seen) == 5


def test_a_folder_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = base(tmp_path / "models" / "miniature")
    assert resolve_base(str(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert resolve_base("models/miniature") == Path("models/miniature")
    with pytest.raises(BaseError, match="a folder has no revision; remove"):
        resolve_base("models/miniature", "main")


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = base(tmp_path / "models" / "miniature")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseError, match="did you mean models/miniature"):
        resolve_base("models/minature")
    with pytest.raises(BaseError, match="no such folder"):
        resolve_base(str(tmp_path / "none"))
    with pytest.raises(BaseError, match="is a file; give the folder"):
        resolve_base(str(folder / "model_index.json"))
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(
        BaseError, match=r"model_index\.json names tokenizer, but there is no such folder"
    ):
        resolve_base(str(folder))
    (folder / "model_index.json").write_text("{")
    with pytest.raises(BaseError, match="not JSON"):
        resolve_base(str(folder))
    (folder / "model_index.json").unlink()
    with pytest.raises(BaseError, match=r"no model_index\.json; a base is a folder in diffusers'"):
        base_digest(folder)


UNET = "unet/diffusion_pytorch_model"


def refused(folder: Path) -> str:
    with pytest.raises(BaseError) as caught:
        base_digest(folder)
    with pytest.raises(BaseError):
        resolve_base(str(folder))  # before a program is started for it
    return str(caught.value)


def test_a_component_that_is_only_a_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """However many others are in safetensors."""
    folder = base(tmp_path / "base")
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder/config.json").write_text("{}")
    (folder / "text_encoder/pytorch_model.bin").write_text("x")
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder"] = ["transformers", "CLIPTextModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    said = refused(folder)
    assert f"base {folder}: text_encoder: " in said
    assert "has no model.safetensors, only pytorch_model.bin" in said
    assert f"CLIPTextModel as M; M.from_pretrained('{folder}/text_encoder'" in said
    (folder / "text_encoder/model.safetensors").write_text("x")
    digest = base_digest(folder)
    (folder / "text_encoder/pytorch_model.bin").write_text("another")
    assert base_digest(folder) == digest  # it is not loaded


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({".fp16.safetensors": "x"}, "only the variant fp16; convert it: python -c"),
        ({".fp16-00001-of-00002.safetensors": "x"}, "only the variant fp16"),
        ({".non_ema.safetensors": "x"}, "only the variant non_ema"),
        ({".msgpack": "x"}, "has no weights; add diffusion_pytorch_model.safetensors"),
        ({}, "has no weights"),
        ({".safetensors": "x", ".safetensors.index.json": "{}"}, "has both"),
        ({".safetensors.index.json": "{"}, "is not an index of weights"),
        ({".safetensors.index.json": '{"weight_map": []}'}, "is not an index of weights"),
        ({".safetensors.index.json": '{"weight_map": {}}'}, "names no file"),
        ({".safetensors.index.json": '{"weight_map": {"a": 1}}'}, "is not an index of weights"),
        ({".safetensors.index.json": '{"weight_map": {"a": "../x.safetensors"}}'}, r"names ../x"),
        ({".safetensors.index.json": '{"weight_map": {"a": "x.bin"}}'}, "names x.bin; only"),
        ({".safetensors.index.json": '{"weight_map": {"a": "x.safetensors"}}'}, "is missing"),
    ],
)
def test_weights_that_would_not_be_loaded_are_refused(
    tmp_path: Path, files: dict[str, str], said: str
) -> None:
    folder = base(tmp_path / "base")
    (folder / f"{UNET}.safetensors").unlink()
    for ending, text in files.items():
        (folder / f"{UNET}{ending}").write_text(text)
    found = refused(folder)
    assert f"base {folder}: unet: " in found
    assert said in found


def test_an_index_s_files_are_the_weights(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    (folder / f"{UNET}.safetensors").unlink()
    shards = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for shard in shards:
        (folder / "unet" / shard).write_text(shard)
    weight_map = dict(zip("ab", shards, strict=True))
    (folder / f"{UNET}.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    seen = {base_digest(folder)}
    assert {file.name for file in base_files(folder)} >= set(shards)
    for name in (*shards, "diffusion_pytorch_model.safetensors.index.json"):
        file = folder / "unet" / name
        file.write_text(file.read_text() + " ")
        seen.add(base_digest(folder))
    assert len(seen) == 4
    (folder / "unet/other.safetensors").write_text("no index names it")
    assert base_digest(folder) in seen


def test_links_are_the_files_that_they_name(tmp_path: Path) -> None:
    """As the hub's cache keeps them."""
    stored, linked = base(tmp_path / "stored"), tmp_path / "linked"
    for file in base_files(stored):
        link = linked / file.relative_to(stored)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    assert base_digest(linked) == base_digest(stored)


def test_a_component_that_is_not_loaded_is_no_part_of_the_digest(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    digest = digest_files(folder, [f for f in base_files(folder) if f.name != "model_index.json"])
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["diffusers", "SafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    others = [f for f in base_files(folder) if f.name != "model_index.json"]
    assert digest_files(folder, others) == digest


def test_a_loader_sees_only_the_files_that_it_is_shown(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    (folder / "unet/pytorch_model.bin").write_text("x")
    with only(folder, base_files(folder)) as view:
        seen = sorted(file.relative_to(view) for file in view.rglob("*") if file.is_file())
        assert seen == sorted(file.relative_to(folder) for file in base_files(folder))
        assert (view / f"{UNET}.safetensors").read_text() == f"{UNET}.safetensors"
    assert not view.exists()
    with (
        pytest.raises(BaseError, match=rf"^{folder}/unet: broken$"),
        only(folder, base_files(folder)) as view,
    ):
        raise BaseError(f"{view}/unet: broken")


def test_a_scorer_s_files_are_those_that_are_loaded(tmp_path: Path) -> None:
    for name in ("config.json", "vocab.json", "adapter_config.json", "pytorch_model.bin"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(BaseError, match=r"no model\.safetensors, only pytorch_model\.bin"):
        scorer_files(str(tmp_path))
    (tmp_path / "model.safetensors").write_text("x")
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    folder, files = scorer_files(str(tmp_path))
    assert [file.name for file in files] == ["config.json", "model.safetensors", "vocab.json"]
    assert folder == tmp_path


def test_a_scorer_in_onnx_is_its_networks_and_settings(tmp_path: Path) -> None:
    (tmp_path / "detector.onnx").write_text("x")
    with pytest.raises(BaseError, match=r"has no embedder\.onnx; a scorer of faces needs"):
        scorer_files(str(tmp_path))
    (tmp_path / "detector.onnx").rename(tmp_path / "face_detection_yunet.onnx")
    with pytest.raises(BaseError, match=r"only face_detection_yunet\.onnx; rename the networks"):
        scorer_files(str(tmp_path))
    for name in ("detector.onnx", "embedder.onnx", "README.md"):
        (tmp_path / name).write_text("x")
    files = scorer_files(str(tmp_path))[1]
    assert [file.name for file in files] == ["detector.onnx", "embedder.onnx"]
    saliency = tmp_path / "saliency"
    saliency.mkdir()
    for name in ("saliency.onnx", "saliency.json"):
        (saliency / name).write_text("{}")
    files = scorer_files(str(saliency))[1]
    assert [file.name for file in files] == ["saliency.json", "saliency.onnx"]


def test_a_file_is_not_a_scorer(tmp_path: Path) -> None:
    (tmp_path / "sscd.torchvision.pt").write_text("x")
    with pytest.raises(BaseError, match=r"is a file; give a folder, and convert .*scorer convert"):
        scorer_files(str(tmp_path / "sscd.torchvision.pt"))


def test_a_hub_that_cannot_be_reached_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline and not in the cache, as the tests' environment has it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unavailable, match="not a local folder, and the hub cannot be reached"):
        resolve_base("somebody/some-model")


def test_a_hub_model_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache as the hub's own client lays it out, because the network is not for tests."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    stored = tmp_path / "cache" / "models--somebody--some-model"
    snapshot = base(stored / "snapshots" / ("0" * 40))
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("0" * 40)
    assert resolve_base("somebody/some-model") == snapshot
    assert resolve_base("somebody/some-model", "0" * 40) == snapshot
    (snapshot / f"{UNET}.safetensors").unlink()
    with pytest.raises(
        BaseError, match=r"unet: .* has no weights.*may have the weights as a pickle"
    ):
        resolve_base("somebody/some-model")
    (snapshot / "model_index.json").unlink()
    with pytest.raises(BaseError, match=r"the model on the hub has no model_index\.json"):
        resolve_base("somebody/some-model")
