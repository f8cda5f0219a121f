"""Renders the pictures of an evaluation with the serving engine, with and without the adapter.

The base's pictures do not depend on the adapter, so they are cached between evaluations. The cache
key covers all inputs that determine the pixels, including the engine digest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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

Progress = Callable[[str, int, int], None]  # the activity, steps done, steps in total

CHUNK: Final = 16  # requests between two progress reports; a few batches of the engine


@dataclass(frozen=True)
class Renderer:
    """Renders the pictures of a policy with one engine."""

    engine: "Engine"
    policy: Policy
    cache: Path | None  # folder of the base's pictures; None: no cache
    progress: Progress

    def pairs(
        self,
        cases: Sequence[PromptCase],
        adapter: "AdapterUse",
        companions: "tuple[AdapterUse, ...]" = (),
    ) -> list[Pair]:
        """Render every case with the adapter and without it, in the order of `cases`.

        Cases of the subject are also rendered with the adapter and its companions, if it has any.
        """
        base = self._base(cases)
        on = self.pictures(cases, (adapter,))
        pairs = [Pair(*three) for three in zip(cases, on, base, strict=True)]
        if not companions:
            return pairs
        of_subject = [case for case in cases if case.role == "subject"]
        images = self.pictures(of_subject, (adapter, *companions))
        together = dict(zip(of_subject, images, strict=True))
        return [replace(pair, together=together.get(pair.case)) for pair in pairs]

    def pictures(
        self, cases: Sequence[PromptCase], adapters: "tuple[AdapterUse, ...]"
    ) -> list[Image.Image]:
        """Render every case with these adapters, in the order of `cases`, without the cache."""
        requests = [self._request(case, adapters) for case in cases]
        doing = "pictures with the adapter" if adapters else "pictures of the base"
        return self._render(requests, doing)

    def _base(self, cases: Sequence[PromptCase]) -> list[Image.Image]:
        requests = [self._request(case, ()) for case in cases]
        files = [self._cache_file(request) for request in requests]
        missing = [i for i, file in enumerate(files) if file is None or not file.exists()]
        images = self._render([requests[i] for i in missing], "pictures of the base")
        fresh = dict(zip(missing, images, strict=True))
        for i, image in fresh.items():
            file = files[i]
            if file is not None:
                save(image, file)
        return [fresh[i] if i in fresh else _open(file) for i, file in enumerate(files)]

    def _render(self, requests: Sequence["ImageRequest"], doing: str) -> list[Image.Image]:
        images: list[Image.Image] = []
        for start in range(0, len(requests), CHUNK):
            self.progress(doing, start, len(requests))
            results = self.engine.generate_many(list(requests[start : start + CHUNK]))
            images += [Image.fromarray(result.images[0]) for result in results]
        if requests:
            self.progress(doing, len(requests), len(requests))
        return images

    def _request(self, case: PromptCase, adapters: "tuple[AdapterUse, ...]") -> "ImageRequest":
        from services.engine import ImageRequest

        return ImageRequest(
            prompt=case.prompt,
            adapters=adapters,
            scheduler=self.policy.scheduler,
            seed=case.seed,
            steps=self.policy.steps,
            width=None,
            height=None,
            guidance_scale=self.policy.guidance_scale,
        )

    def _cache_file(self, request: "ImageRequest") -> Path | None:
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
    """Write a PNG atomically. Concurrent writers of one file do not mix."""
    with writing(file) as out:
        image.save(out, format="PNG")


def _open(file: Path | None) -> Image.Image:
    assert file is not None  # only cached pictures are opened
    with Image.open(file) as image:
        return image.convert("RGB")
