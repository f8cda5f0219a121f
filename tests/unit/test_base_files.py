"""A base's digest is that of what is loaded, and a base that is not there is asked for clearly."""

import json
import shutil
from pathlib import Path

import pytest

from atelier.errors import BaseError, Unavailable
from atelier.stores.base_files import base_digest, resolve_base


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
    with pytest.raises(BaseError, match=r"model_index\.json names tokenizer, but no such folder"):
        resolve_base(str(folder))
    (folder / "model_index.json").write_text("{")
    with pytest.raises(BaseError, match="not JSON"):
        resolve_base(str(folder))
    (folder / "model_index.json").unlink()
    with pytest.raises(BaseError, match=r"no model_index\.json; a base is a folder in diffusers'"):
        base_digest(folder)


def test_a_base_without_safetensors_is_refused(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "model.bin")
    with pytest.raises(BaseError, match="no weights; safetensors without a variant"):
        base_digest(folder)


def test_a_hub_that_cannot_be_reached_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline and not in the cache, as the tests' environment has it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unavailable, match="not a folder here, and the hub cannot be reached"):
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
    (snapshot / "model_index.json").unlink()
    with pytest.raises(BaseError, match=r"the hub's model has no model_index\.json"):
        resolve_base("somebody/some-model")
