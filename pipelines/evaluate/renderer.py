"""The pictures a verdict looks at, made by the engine that serves, adapter on and off.

The base's pictures do not depend on the adapter, so they are kept between verdicts: by everything
that decides their pixels, the engine's digest included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image

from atelier.data.names import hex_of
from atelier.data.policy import Policy
from atelier.files import digest_json, writing

from .measures import Pair
from .prompt_set import PromptCase

if TYPE_CHECKING:
    from services.engine import AdapterUse, Engine, ImageRequest

Progress = Callable[[str, int, int], None]  # what is being done, so many of so many

CHUNK: Final = 16  # requests between two signs of progress; a few of the engine's batches


@dataclass(frozen=True)
class Renderer:
    """Makes the policy's pictures with one engine."""

    engine: "Engine"
    policy: Policy
    cache: Path | None  # the base's pictures; None makes them anew
    progress: Progress

    def pairs(self, shots: Sequence[PromptCase], adapter: "AdapterUse") -> list[Pair]:
        """Every shot with the adapter and without it."""
        base = self._base(shots)
        on = self._make([self._request(shot, (adapter,)) for shot in shots], "pictures with it")
        return [Pair(*three) for three in zip(shots, on, base, strict=True)]

    def _base(self, shots: Sequence[PromptCase]) -> list[Image.Image]:
        requests = [self._request(shot, ()) for shot in shots]
        files = [self._kept(request) for request in requests]
        missing = [i for i, file in enumerate(files) if file is None or not file.exists()]
        made = self._make([requests[i] for i in missing], "pictures of the base")
        fresh = dict(zip(missing, made, strict=True))
        for i, image in fresh.items():
            file = files[i]
            if file is not None:
                save(image, file)
        return [fresh[i] if i in fresh else _open(file) for i, file in enumerate(files)]

    def _make(self, requests: Sequence["ImageRequest"], doing: str) -> list[Image.Image]:
        images: list[Image.Image] = []
        for start in range(0, len(requests), CHUNK):
            self.progress(doing, start, len(requests))
            results = self.engine.generate_many(list(requests[start : start + CHUNK]))
            images += [Image.fromarray(result.images[0]) for result in results]
        if requests:
            self.progress(doing, len(requests), len(requests))
        return images

    def _request(self, shot: PromptCase, adapters: "tuple[AdapterUse, ...]") -> "ImageRequest":
        from services.engine import ImageRequest

        return ImageRequest(
            prompt=shot.prompt,
            adapters=adapters,
            scheduler=self.policy.scheduler,
            seed=shot.seed,
            steps=self.policy.steps,
            width=None,
            height=None,
            guidance_scale=self.policy.guidance_scale,
        )

    def _kept(self, request: "ImageRequest") -> Path | None:
        if self.cache is None:
            return None
        identity = {
            "engine": self.engine.digest,
            "prompt": request.prompt,
            "seed": request.seed,
            "steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "scheduler": request.scheduler,
        }
        return self.cache / f"{hex_of(digest_json(identity))}.png"


def save(image: Image.Image, file: Path) -> None:
    """Write a PNG that is whole or absent, whoever else writes the same file."""
    with writing(file) as out:
        image.save(out, format="PNG")


def _open(file: Path | None) -> Image.Image:
    assert file is not None  # only files that exist are not made
    with Image.open(file) as image:
        return image.convert("RGB")
