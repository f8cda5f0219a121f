"""An adapter is held against the pictures it was trained on, and no others."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from atelier.adapter.package import Package, write_package
from atelier.data.manifest import BaseRef, Manifest
from atelier.data.recipe import Recipe
from atelier.errors import BadInput, DatasetError
from pipelines.dataset import open_folder
from pipelines.evaluate.references import recipe_of, reference_set

DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index, shade in enumerate((40, 120, 200)):
        Image.new("RGB", (48, 32), (shade, 10, 10)).save(folder / f"{index}.png")
    lines = [f'{{"file_name": "{index}.png", "text": "number {index}"}}' for index in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def recipe(folder: Path, captions: str | None = "text") -> Recipe:
    stage = {
        "method": "dreambooth",
        "dataset": {"path": "images", "resolution": 32, "captions": captions},
        "prompt": "a photo of {trigger}",
        "train": {"steps": 1, "lr": 1e-3},
    }
    said = {"adapter": "thor-cat", "base": {"model": "m"}, "trigger": "sks", "stages": [stage]}
    return Recipe.model_validate(said | {"folder": folder})


def manifest(dataset: str | None) -> Manifest:
    return Manifest(
        name="thor-cat",
        base=BaseRef(id="m", digest=DIGEST),
        rank=1,
        alpha=1.0,
        dataset=dataset,
        files={"adapter.safetensors": DIGEST},
    )


@pytest.mark.parametrize("captions", ["text", None])
def test_recipe_and_folder_give_the_pictures_of_the_manifest(
    pictures: Path, captions: str | None
) -> None:
    trained = manifest(open_folder(pictures, captions).digest)
    by_recipe = reference_set(trained, recipe(pictures.parent, captions))
    by_folder = reference_set(trained, pictures)
    for found in (by_recipe, by_folder):
        assert found.digest == trained.dataset
        assert list(found.training_names) == ["0.png", "1.png", "2.png"]
        assert [image.size for image in found.training] == [(32, 32)] * 3
        assert not found.held_back


def test_other_pictures_are_an_error_that_names_both_digests(pictures: Path) -> None:
    trained = manifest(open_folder(pictures).digest)
    Image.new("RGB", (32, 32), (0, 0, 9)).save(pictures / "0.png")
    now = open_folder(pictures).digest
    with pytest.raises(DatasetError) as caught:
        reference_set(trained, pictures)
    assert str(trained.dataset) in str(caught.value)
    assert now in str(caught.value)


def test_an_adapter_from_elsewhere_takes_the_pictures_it_is_given(pictures: Path) -> None:
    assert reference_set(manifest(None), pictures).digest == open_folder(pictures).digest


def held_back(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        Image.new("RGB", (32, 32), (index, 90, 10)).save(folder / f"new-{index}.png")
    return folder


def test_enough_held_back_pictures_beside_the_recipe_take_the_place(pictures: Path) -> None:
    trained = manifest(open_folder(pictures, "text").digest)
    held_back(pictures.parent / "held_back", 3)
    found = reference_set(trained, recipe(pictures.parent))
    assert found.held_back
    assert list(found.reference_names) == ["new-0.png", "new-1.png", "new-2.png"]
    assert len(found.training) == 3  # copying still looks at what was trained on


def test_too_few_held_back_pictures_are_not_trusted(pictures: Path, tmp_path: Path) -> None:
    found = reference_set(manifest(None), pictures, held_back(tmp_path / "kept", 2))
    assert not found.held_back
    assert list(found.reference_names) == ["0.png", "1.png", "2.png"]


def test_a_picture_that_was_trained_on_cannot_be_held_back(pictures: Path, tmp_path: Path) -> None:
    kept = held_back(tmp_path / "kept", 3)
    (kept / "sneaked.png").write_bytes((pictures / "1.png").read_bytes())
    with pytest.raises(DatasetError, match=r"sneaked\.png was used in training"):
        reference_set(manifest(None), pictures, kept)


def package_of(folder: Path, recipe: Recipe | None) -> Package:
    tensors = {
        f"unet.mid_block.attentions.0.proj_in.{part}.weight": np.ones(shape, np.float32)
        for part, shape in (("lora_A", (2, 4)), ("lora_B", (4, 2)))
    }
    digest = recipe.digest if recipe else None
    base = BaseRef(id="m", digest=DIGEST)
    return write_package(folder, tensors, name="thor-cat", base=base, recipe=digest)


def written(file: Path, recipe: Recipe) -> Recipe:
    file.parent.mkdir(parents=True)
    document = recipe.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    file.write_text(yaml.safe_dump(document))
    return Recipe.load(file)


def test_the_recipe_of_a_package_is_found_by_its_digest(tmp_path: Path, pictures: Path) -> None:
    adapters, examples = tmp_path / "adapters", tmp_path / "examples"
    written(adapters / "thor-cat" / "recipe.yaml", recipe(pictures.parent))
    second = written(examples / "thor-cat" / "version-2.yaml", recipe(pictures.parent, None))
    package = package_of(tmp_path / "package", second)
    assert recipe_of(package, [adapters, examples]).folder == examples / "thor-cat"
    with pytest.raises(BadInput, match=r"adapters.*--recipe"):
        recipe_of(package, [adapters, tmp_path / "nowhere"])
    with pytest.raises(BadInput, match="--recipe"):
        recipe_of(package_of(tmp_path / "imported", None), [adapters, examples])


def test_a_broken_recipe_of_another_adapter_is_passed_over(tmp_path: Path, pictures: Path) -> None:
    adapters = tmp_path / "adapters"
    (adapters / "a-broken-one").mkdir(parents=True)
    (adapters / "a-broken-one" / "recipe.yaml").write_text("rnak: 4")
    mine = written(adapters / "thor-cat" / "recipe.yaml", recipe(pictures.parent))
    assert recipe_of(package_of(tmp_path / "package", mine), [adapters]) == mine
