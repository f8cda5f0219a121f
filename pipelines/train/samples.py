"""A stage's inputs, and the rows of a batch: encoded pictures and prompts in a fixed order."""

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
    """A base, a recipe's stage, its pictures, and the class pictures that its prior asks for."""

    base: Base
    recipe: Recipe
    stage: Stage
    pictures: PictureFolder
    class_pictures: PictureFolder | None = None


@dataclass(frozen=True)
class SampleRow:
    """One picture and the place of its prompt among `Samples.prompts`."""

    latent: Latent
    prompt: int


class Samples:
    """A stage's pictures and class pictures, encoded; `prompts` are all distinct ones."""

    def __init__(self, material: StageInputs) -> None:
        stage, recipe = material.stage, material.recipe
        self.prompts: list[str] = []
        pictures = material.pictures.pictures
        rows = _windows(pictures, stage.dataset, stage.train.seed)
        latents = encode(material.base.vae, [f for _, f in rows], [str(p.path) for p, _ in rows])
        self._subject = [
            SampleRow(
                latent, self._place(recipe.fill(stage.prompt or "{caption}", picture.caption))
            )
            for latent, (picture, _) in zip(latents, rows, strict=True)
        ]
        self._prior: list[SampleRow] = []
        if stage.prior and material.class_pictures:
            own = material.class_pictures.pictures
            fitted = [square(open_picture(p.path), stage.dataset.resolution) for p in own]
            place = self._place(recipe.fill(stage.prior.prompt))
            encoded = encode(material.base.vae, fitted, [str(p.path) for p in own])
            self._prior = [SampleRow(latent, place) for latent in encoded]

    def subject(self, draws: Draws, count: int) -> list[SampleRow]:
        """The batch's rows of the subject: every picture once before any comes again."""
        return [self._subject[i] for i in draws.picks("subject", count, len(self._subject))]

    def prior(self, draws: Draws, count: int) -> list[SampleRow]:
        """The batch's rows of the class; none without a prior."""
        if not self._prior:
            return []
        return [self._prior[i] for i in draws.picks("class", count, len(self._prior))]

    def _place(self, prompt: str) -> int:
        if prompt not in self.prompts:
            self.prompts.append(prompt)
        return self.prompts.index(prompt)


def _windows(
    pictures: Sequence[Picture], spec: DatasetSpec, seed: int
) -> list[tuple[Picture, Fitted]]:
    """Each picture fitted as the recipe says; with random crops, each repeat another window."""
    rows = []
    for picture in pictures:
        image = open_picture(picture.path)
        if spec.crop != "random":
            one = (whole if spec.crop == "none" else square)(image, spec.resolution)
            rows += [(picture, one)] * spec.repeats
            continue
        source = generator(seed, "crop", picture.digest)
        for _ in range(spec.repeats):
            down, right = torch.rand(2, generator=source).tolist()
            rows.append((picture, square(image, spec.resolution, (down, right))))
    return rows
