"""Pictures of the subject's class, drawn by the base itself through our engine, and kept.

The same base, prompt, seed and size give the same pictures, so they are made once for all runs.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from atelier.data.names import hex_of
from atelier.files import digest_json, locked, replace_folder, staging, write_atomic, writing
from pipelines.dataset import PictureFolder, open_folder
from services.engine import Engine, ImageRequest

GROUP = 8  # pictures that are drawn together and kept together


@dataclass(frozen=True)
class ClassPictures:
    """What decides about them; two equal ones are the same pictures."""

    base: str
    vae: str | None
    precision: str
    prompt: str
    count: int
    size: int
    seed: int
    steps: int = 15  # enough for DPM-Solver++ under guidance (Lu et al. 2022)
    guidance_scale: float = 5.0
    scheduler: str = "dpm++"

    def request(self, index: int) -> ImageRequest:
        """The picture of that number; each has a seed of its own."""
        return ImageRequest(
            prompt=self.prompt,
            seed=self.seed + index,
            steps=self.steps,
            width=self.size,
            height=self.size,
            guidance_scale=self.guidance_scale,
            scheduler=self.scheduler,
        )


def class_pictures(
    wanted: ClassPictures,
    cache: Path,
    engine: Callable[[], Engine],
    told: Callable[[int, int], None],
    check: Callable[[], None],
) -> PictureFolder:
    """The pictures, from the cache or drawn now.

    `told(done, of)` is called before each group that is missing. `check()` is called before each
    of the UNet's calls and while another process draws the group; an exception from it ends the
    work.

    A group is kept whole or not at all, because which pictures are drawn together decides about
    their last bits, and a run that goes on must see the pictures that it began with. Trainings
    that need the same pictures take turns at a lock, so each group is drawn once.
    """
    folder = cache / hex_of(digest_json(asdict(wanted)))[:16]
    write_atomic(folder / "wanted.json", json.dumps(asdict(wanted), indent=2))
    for first in range(0, wanted.count, GROUP):
        numbers = range(first, min(first + GROUP, wanted.count))
        final = folder / f"{first:05d}"
        if not final.is_dir():
            told(first, wanted.count)
            with locked(folder / ".lock", waiting=check):
                if not final.is_dir():  # another process may have drawn it meanwhile
                    _remove_unfinished(folder)
                    requests = [wanted.request(number) for number in numbers]
                    _keep(final, dict(zip(numbers, _drawn(engine(), requests, check), strict=True)))
    return open_folder(folder)


def _drawn(
    engine: Engine, requests: Sequence[ImageRequest], check: Callable[[], None]
) -> list[Image.Image]:
    """One picture a request, drawn together."""
    futures = [engine.submit(request) for request in requests]
    try:
        while not all(future.done() for future in futures):
            check()
            engine.step()
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return [Image.fromarray(future.result().images[0]) for future in futures]


def _keep(final: Path, images: dict[int, Image.Image]) -> None:
    """Write a group in a folder of its own and publish it whole."""
    with staging(final) as aside:
        for number, image in images.items():
            with writing(aside / f"{number:05d}.png") as file:
                image.save(file, format="PNG")
        replace_folder(aside, final)


def _remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half-written; only under the folder's lock."""
    for left in folder.glob(".[0-9]*"):
        shutil.rmtree(left)
