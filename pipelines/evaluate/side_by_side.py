"""Compares two adapters and their base: pictures from the same prompts and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines.evaluate.grid import GridRow, grid

if TYPE_CHECKING:
    from atelier.stores.packages import ResolvedAdapter
    from services.engine import ImageRequest
    from services.engine.local import LocalEngine

PROMPTS: Final = ("a photo of {trigger}", "a photo of {trigger} in the snow")
SEEDS: Final = (0, 1)
TRIGGER: Final = "{trigger}"  # the trigger of the adapter; for the base, of the first adapter

Pixels: TypeAlias = npt.NDArray[np.uint8]  # [height, width, 3]


@dataclass(frozen=True)
class SideBySide:
    """The pictures of one prompt and seed: of the base and of both adapters."""

    prompt: str
    seed: int
    base: Pixels
    first: Pixels
    second: Pixels

    @property
    def mean_difference(self) -> float:
        """The mean absolute difference between the adapters' pictures, in levels of 255."""
        return float(np.abs(self.first.astype(np.int16) - self.second.astype(np.int16)).mean())


def draw_side_by_side(
    engine: "LocalEngine",
    *,
    prompts: Sequence[str] = PROMPTS,
    seeds: Sequence[int] = SEEDS,
    steps: int,
    guidance_scale: float,
) -> list[SideBySide]:
    """Render every prompt with every seed, with the base and with the engine's two adapters.

    Raises RequestError if the engine does not support the steps or the guidance scale.
    """
    from services.engine import ImageRequest

    def request(prompt: str, seed: int, adapter: int | None) -> "ImageRequest":
        trigger = engine.adapters[adapter or 0].package.manifest.trigger
        return ImageRequest(
            prompt=prompt.replace(TRIGGER, trigger),
            adapters=() if adapter is None else (engine.use(adapter),),
            seed=seed,
            steps=steps,
            guidance_scale=guidance_scale,
        )

    requests = [
        request(prompt, seed, adapter)
        for prompt in prompts
        for seed in seeds
        for adapter in (None, 0, 1)
    ]
    pictures = [result.images[0] for result in engine.engine.generate_many(requests)]
    return [
        SideBySide(base.prompt, base.seed, *pictures[start : start + 3])
        for start, base in list(enumerate(requests))[::3]
    ]


def sheet(rows: Sequence[SideBySide], columns: Sequence[str]) -> Image.Image:
    """Draw all pictures on one page. `columns` are the names of the base and both adapters."""
    lines = [
        GridRow(
            row.prompt,
            f"seed {row.seed}",
            [Image.fromarray(pixels) for pixels in (row.base, row.first, row.second)],
        )
        for row in rows
    ]
    return grid(columns, lines)


def labels(first: "ResolvedAdapter", second: "ResolvedAdapter") -> tuple[str, str]:
    """Return the adapters' labels. Equal labels get the prefixes `A: ` and `B: `."""
    if first.label != second.label:
        return first.label, second.label
    return f"A: {first.label}", f"B: {second.label}"
