"""Draws runs and their bases side by side: pictures from the same prompts and seeds."""

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
TRIGGER: Final = "{trigger}"  # the trigger of the adapter; for the base, of its first adapter

Pixels: TypeAlias = npt.NDArray[np.uint8]  # [height, width, 3]


@dataclass(frozen=True)
class PictureSettings:
    """The prompts, seeds and settings of the pictures."""

    prompts: Sequence[str]
    seeds: Sequence[int]
    steps: int
    guidance_scale: float


@dataclass(frozen=True)
class Column:
    """The pictures of one run, or of a base, by row."""

    name: str
    is_base: bool
    pictures: tuple[Pixels, ...]


@dataclass(frozen=True)
class PictureSheet:
    """All pictures. A row has the pictures of one prompt and seed."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, int], ...]  # prompt and seed

    def mean_difference(self, row: int) -> float:
        """Return the largest mean absolute difference of a run's picture to that of the first run.

        In levels of 255; 0 for a single run.
        """
        first, *others = (
            column.pictures[row].astype(np.int16) for column in self.columns if not column.is_base
        )
        return max((float(np.abs(first - other).mean()) for other in others), default=0.0)

    def image(self) -> Image.Image:
        """Draw all pictures on one page."""
        lines = [
            GridRow(
                prompt,
                f"seed {seed}",
                [Image.fromarray(column.pictures[row]) for column in self.columns],
            )
            for row, (prompt, seed) in enumerate(self.rows)
        ]
        return grid([column.name for column in self.columns], lines)


def draw(
    runs: Sequence[tuple[str, "ResolvedAdapter"]],
    settings: PictureSettings,
    base: str | None = None,
) -> PictureSheet:
    """Render every prompt and seed with the adapter of each run and with each of their bases.

    `runs` has the name and the adapter of each run. `base` is the location of the base, by default
    that of each adapter. The column of a base stands before those of its adapters. Raises
    RequestError if the engine does not support the settings, AdapterRejected if an adapter was
    trained on another base than `base`, and BaseError if a base cannot be loaded.
    """
    from services.engine.local import local_engine

    bases = [base or adapter.package.manifest.base.digest for _, adapter in runs]
    columns: list[Column] = []
    for known in dict.fromkeys(bases):
        members = [index for index, other in enumerate(bases) if other == known]
        with local_engine([runs[index][1] for index in members], base) as engine:
            name = "base" if len(set(bases)) == 1 else f"base {engine.engine.base.id}"
            columns.append(Column(name, True, _pictures(engine, None, settings)))
            columns += [
                Column(runs[index][0], False, _pictures(engine, place, settings))
                for place, index in enumerate(members)
            ]
    trigger = runs[0][1].package.manifest.trigger
    prompts = [prompt.replace(TRIGGER, trigger) for prompt in settings.prompts]
    rows = tuple((prompt, seed) for prompt in prompts for seed in settings.seeds)
    return PictureSheet(tuple(columns), rows)


def _pictures(
    engine: "LocalEngine", adapter: int | None, settings: PictureSettings
) -> tuple[Pixels, ...]:
    results = engine.engine.generate_many(_requests(engine, adapter, settings))
    return tuple(result.images[0] for result in results)


def _requests(
    engine: "LocalEngine", adapter: int | None, settings: PictureSettings
) -> list["ImageRequest"]:
    from services.engine import ImageRequest

    trigger = engine.adapters[adapter or 0].package.manifest.trigger
    return [
        ImageRequest(
            prompt=prompt.replace(TRIGGER, trigger),
            adapters=() if adapter is None else (engine.use(adapter),),
            seed=seed,
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
        )
        for prompt in settings.prompts
        for seed in settings.seeds
    ]
