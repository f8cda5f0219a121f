"""Class pictures, which the engine generates with the base; they are cached.

The same base, prompt, seed and size give the same pictures, so all runs share the cache.
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

GROUP = 8  # pictures that are generated in one batch and cached together


@dataclass(frozen=True)
class ClassPictures:
    """The specification of a set of class pictures; equal specifications give equal pictures.

    `base` and `vae` are digests; `size` is the side in pixels.
    """

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
        """Return the request for picture number `index`; each picture has its own seed."""
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
    report: Callable[[int, int], None],
    check: Callable[[], None],
) -> PictureFolder:
    """Return the pictures from the cache, after generating the missing ones.

    `report(done, total)` is called before each missing group. `check()` is called before each call
    of the UNet and while another process generates the group; an exception from it ends the work.

    A group is stored atomically: the last bits of a picture depend on its batch, and a resumed run
    must use the same pictures as before. Trainings that need the same pictures wait for each other
    at a lock, so each group is generated once.
    """
    folder = cache / hex_of(digest_json(asdict(wanted)))[:16]
    write_atomic(folder / "wanted.json", json.dumps(asdict(wanted), indent=2))
    for first in range(0, wanted.count, GROUP):
        numbers = range(first, min(first + GROUP, wanted.count))
        final = folder / f"{first:05d}"
        if not final.is_dir():
            report(first, wanted.count)
            with locked(folder / ".lock", waiting=check):
                if not final.is_dir():  # another process may have generated the group meanwhile
                    _remove_unfinished(folder)
                    requests = [wanted.request(number) for number in numbers]
                    images = _generate(engine(), requests, check)
                    _store(final, dict(zip(numbers, images, strict=True)))
    return open_folder(folder)


def _generate(
    engine: Engine, requests: Sequence[ImageRequest], check: Callable[[], None]
) -> list[Image.Image]:
    """Generate one picture for each request, in one batch."""
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


def _store(final: Path, images: dict[int, Image.Image]) -> None:
    """Write a group to the folder `final`, atomically."""
    with staging(final) as aside:
        for number, image in images.items():
            with writing(aside / f"{number:05d}.png") as file:
                image.save(file, format="PNG")
        replace_folder(aside, final)


def _remove_unfinished(folder: Path) -> None:
    """Remove the unfinished groups of killed processes. The caller must have the folder's lock."""
    for unfinished in folder.glob(".[0-9]*"):
        shutil.rmtree(unfinished)
