"""Generates validation pictures during training, with the serving engine."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from atelier.adapter.low_rank import LoraWeights
from atelier.data.recipe import Recipe
from atelier.files import write_atomic
from services.engine import AdapterUse, Engine, ImageRequest

NAME = "in-training"


@dataclass(frozen=True)
class ValidationImage:
    """The picture of the validation prompt number `index`."""

    index: int
    prompt: str
    path: Path


def generate_samples(
    engine: Engine, recipe: Recipe, lora: Mapping[str, LoraWeights], step: int, folder: Path
) -> list[ValidationImage]:
    """Generate a picture for each validation prompt of the recipe, with the same seed each time.

    `lora` is the current adapter. The PNG files are written to `folder`, with `step` in their
    names. The list is empty if the recipe has no validation.
    """
    spec = recipe.validation
    if spec is None:
        return []
    engine.adapters.add_tensors(NAME, lora)
    prompts = [recipe.fill(prompt) for prompt in spec.prompts]
    requests = [
        ImageRequest(
            prompt=prompt,
            adapters=(AdapterUse(NAME),),
            seed=spec.seed,
            steps=spec.steps,
            guidance_scale=spec.guidance_scale,
        )
        for prompt in prompts
    ]
    samples = []
    for index, result in enumerate(engine.generate_many(requests)):
        path = folder / f"step-{step:08d}-{index}.png"
        data = BytesIO()
        Image.fromarray(result.images[0]).save(data, format="PNG")
        write_atomic(path, data.getvalue())
        samples.append(ValidationImage(index, prompts[index], path))
    engine.adapters.remove(NAME)
    return samples
