"""An adapter is held against the pictures it was trained on, and no others."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from atelier.adapter.package import Package, write_package
from atelier.data.manifest import BaseRef, Manifest
from atelier.data.recipe import Recipe
from atelier.errors import BadInput, DatasetError
from pipelines.dataset import hold_back, open_folder
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
    said = {
        "adapter": "thor-cat",
        "base": {"model": "m"},
        "trigger": "sks",
        "class": "cat",
        "stages": [stage],
    }
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
        assert found.reference_names == found.training_names
        assert len(found.reference_digests) == 3


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


def many(folder: Path, count: int) -> Path:
    """A folder with so many different pictures, and a copy of the first."""
    folder.mkdir()
    for index in range(count):
        Image.new("RGB", (32, 32), (index * 9, 90, 10)).save(folder / f"{index:02}.png")
    shutil.copy(folder / "00.png", folder / "copy.png")
    return folder


def test_the_references_are_the_pictures_that_training_did_not_see(tmp_path: Path) -> None:
    folder = open_folder(many(tmp_path / "many", 12))
    split = hold_back(folder, None)
    made = manifest(folder.digest).model_copy(update={"held_back": split.held_back_digests})
    found = reference_set(made, folder.path)
    assert found.held_back and len(found.references) == 3
    assert tuple(sorted(found.reference_digests)) == made.held_back
    trained_on = {picture.digest for picture in split.training.pictures}
    assert trained_on.isdisjoint(found.reference_digests) and len(trained_on) == 9


def test_an_author_cannot_choose_the_references(tmp_path: Path) -> None:
    folder = open_folder(many(tmp_path / "many", 12))
    digests = sorted({picture.digest for picture in folder.pictures})
    chosen = manifest(folder.digest).model_copy(update={"held_back": tuple(digests[-3:])})
    with pytest.raises(DatasetError, match="holds back other pictures than the program chooses"):
        reference_set(chosen, folder.path)


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
