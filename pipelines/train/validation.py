"""Pictures to watch a training by: the adapter as it is now, drawn as it will be served."""

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
    """One picture of one step."""

    index: int
    prompt: str
    path: Path


def draw(
    engine: Engine, recipe: Recipe, lora: Mapping[str, LoraWeights], step: int, folder: Path
) -> list[ValidationImage]:
    """The recipe's validation prompts, always from the same noise; empty where it has none."""
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
