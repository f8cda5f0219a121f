"""An earlier training is found by the digests of its inputs, and by nothing else."""

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from PIL import Image

from atelier.data.recipe import Recipe
from atelier.home import Home
from atelier.stores.registry import VersionInfo
from pipelines.earlier import Earlier, Inputs, find
from pipelines.train.checkpoint import RunIdentity
from pipelines.train.run_folder import RunFolder
from tests.promoted import package


def model(folder: Path, *parts: str) -> Path:
    """The files of a model; their content does not matter to a digest."""
    for part in parts:
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "config.json").write_text("{}")
        (folder / part / "diffusion_pytorch_model.safetensors").write_text(part)
    return folder


class Studio:
    """A recipe with one picture, a base and a VAE, and a home."""

    def __init__(self, folder: Path):
        self.folder, self.home = folder, Home(folder / "home")
        base = model(folder / "base", "unet")
        index = {"_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet"]}
        (base / "model_index.json").write_text(json.dumps(index))
        vae = model(folder, "vae") / "vae"
        (folder / "images").mkdir()
        self.draw(0)
        stage = {
            "method": "dreambooth",
            "dataset": {"path": "images", "resolution": 64},
            "train": {"steps": 2, "lr": 0.1},
        }
        recipe = {
            "adapter": "thor-cat",
            "base": {"model": str(base), "vae": str(vae)},
            "trigger": "sks cat",
            "class": "cat",
            "stages": [{**stage, "prompt": "a photo of {trigger}"}],
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    @property
    def recipe(self) -> Recipe:
        return Recipe.load(self.folder / "recipe.yaml")

    def draw(self, grey: int) -> None:
        Image.new("RGB", (64, 64), (grey, grey, grey)).save(self.folder / "images" / "0.png")

    def find(self, *, resume: bool = False, again: bool = False) -> Earlier:
        return find(self.recipe, self.home, None, resume=resume, again=again)

    def train(self, folder: RunFolder, *, finished: bool = True) -> None:
        """What a training leaves."""
        inputs = Inputs(self.recipe)
        identity = RunIdentity(inputs.recipe, inputs.base, inputs.dataset, vae=inputs.vae)
        folder.root.mkdir(parents=True)
        folder.begin(self.recipe, identity, resume=False)
        if finished:
            package(folder.package, "thor-cat", len(list(folder.root.parent.iterdir())))


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path)


def test_a_finished_run_is_found_and_again_takes_the_next_folder(studio: Studio) -> None:
    fresh = studio.find()
    assert (fresh.version, fresh.finished, fresh.run) == (None, False, None)
    assert fresh.folder == RunFolder.of(studio.recipe, studio.home)
    studio.train(fresh.folder)
    assert studio.find().run == fresh.folder
    again = studio.find(again=True)
    assert not again.finished and again.folder.root.name == f"{fresh.folder.root.name}-2"
    studio.train(again.folder)
    assert studio.find().run == again.folder  # the newest
    assert studio.find(again=True).folder.root.name == f"{fresh.folder.root.name}-3"


def test_an_unfinished_run_is_resumed_also_of_a_training_anew(studio: Studio) -> None:
    first = studio.find().folder
    studio.train(first, finished=False)
    assert not studio.find().finished and studio.find(resume=True).folder == first
    assert studio.find(again=True).folder != first
    assert studio.find(again=True, resume=True).folder == first


@pytest.mark.parametrize(
    "change",
    [
        lambda studio: studio.draw(9),
        lambda studio: (studio.folder / "base/unet/config.json").write_text("{ }"),
        lambda studio: (studio.folder / "vae/config.json").write_text("{ }"),
    ],
    ids=["pictures", "base", "vae"],
)
def test_other_inputs_under_the_same_recipe_are_another_training(
    studio: Studio, change: Callable[[Studio], object]
) -> None:
    first, before = studio.find().folder, studio.recipe.digest
    studio.train(first)
    change(studio)
    assert studio.recipe.digest == before
    found = studio.find()
    assert not found.finished and found.folder.root.name == f"{first.root.name}-2"


def test_a_version_is_the_one_if_every_digest_is(studio: Studio) -> None:
    inputs = Inputs(studio.recipe)
    names = ("recipe", "dataset", "base", "vae")
    tags = {f"atelier.{name}": str(getattr(inputs, name)) for name in names}

    def same(tags: dict[str, str]) -> bool:
        now = datetime.now(UTC)
        return inputs.of_version(VersionInfo("thor-cat", 1, "sha256:0", "run", tags, (), now))

    assert same(tags)
    for name in tags:
        assert not same({**tags, name: "sha256:other"})
        assert not same({key: value for key, value in tags.items() if key != name})


def test_a_run_of_another_number_of_processes_has_the_same_inputs(studio: Studio) -> None:
    folder = studio.find().folder
    studio.train(folder)
    about = json.loads(folder.about.read_text())
    assert set(about["identity"]) == set(asdict(RunIdentity("", "", "")))
    about["identity"]["processes"] = 2
    folder.about.write_text(json.dumps(about))
    assert studio.find().run == folder
