"""The inputs of a stage, and the rows of a batch: encoded pictures and prompts in a fixed order."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from atelier.data.recipe import DatasetSpec, Recipe, Stage
from pipelines.dataset import Fitted, Picture, PictureFolder, open_picture, square, whole
from pipelines.train.draws import Draws, generator
from pipelines.train.latents import Latent, encode
from services.engine.base import Base


@dataclass(frozen=True)
class StageInputs:
    """The base, recipe and pictures of a stage; `class_pictures` if the stage has a prior."""

    base: Base
    recipe: Recipe
    stage: Stage
    pictures: PictureFolder
    class_pictures: PictureFolder | None = None


@dataclass(frozen=True)
class SampleRow:
    """An encoded picture, and the index of its prompt in `Samples.prompts`."""

    latent: Latent
    prompt: int


class Samples:
    """The encoded pictures and class pictures of a stage; `prompts` are the distinct prompts."""

    def __init__(self, material: StageInputs) -> None:
        stage, recipe = material.stage, material.recipe
        self.prompts: list[str] = []
        pictures = material.pictures.pictures
        rows = _windows(pictures, stage.dataset, stage.train.seed)
        latents = encode(material.base.vae, [f for _, f in rows], [str(p.path) for p, _ in rows])
        self._subject = [
            SampleRow(
                latent, self._index(recipe.fill(stage.prompt or "{caption}", picture.caption))
            )
            for latent, (picture, _) in zip(latents, rows, strict=True)
        ]
        self._prior: list[SampleRow] = []
        if stage.prior and material.class_pictures:
            class_pictures = material.class_pictures.pictures
            fitted = [
                square(open_picture(p.path), stage.dataset.resolution) for p in class_pictures
            ]
            prompt = self._index(recipe.fill(stage.prior.prompt))
            encoded = encode(material.base.vae, fitted, [str(p.path) for p in class_pictures])
            self._prior = [SampleRow(latent, prompt) for latent in encoded]

    def subject(self, draws: Draws, count: int) -> list[SampleRow]:
        """Return `count` rows of the subject; no picture is repeated before all are used."""
        return [self._subject[i] for i in draws.picks("subject", count, len(self._subject))]

    def prior(self, draws: Draws, count: int) -> list[SampleRow]:
        """Return `count` rows of the class; empty if the stage has no prior."""
        if not self._prior:
            return []
        return [self._prior[i] for i in draws.picks("class", count, len(self._prior))]

    def _index(self, prompt: str) -> int:
        """Return the index of a prompt in `prompts`, after adding it if it is new."""
        if prompt not in self.prompts:
            self.prompts.append(prompt)
        return self.prompts.index(prompt)


def _windows(
    pictures: Sequence[Picture], spec: DatasetSpec, seed: int
) -> list[tuple[Picture, Fitted]]:
    """Fit each picture as the recipe says; with random crops, each repeat has its own window."""
    rows = []
    for picture in pictures:
        image = open_picture(picture.path)
        if spec.crop != "random":
            fitted = (whole if spec.crop == "none" else square)(image, spec.resolution)
            rows += [(picture, fitted)] * spec.repeats
            continue
        source = generator(seed, "crop", picture.digest)
        for _ in range(spec.repeats):
            down, right = torch.rand(2, generator=source).tolist()
            rows.append((picture, square(image, spec.resolution, (down, right))))
    return rows
