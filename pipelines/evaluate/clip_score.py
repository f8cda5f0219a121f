"""The CLIP score of pictures and prompts, on the scale from 0 to 100.

The score of a picture is 100 · max(cos, 0), with the cosine of CLIP's features of the picture and
its prompt. This is the scale of `CLIPScore` in torchmetrics. The paper (Hessel et al., 2021)
multiplies the cosine by 2.5 instead of 100, so its scores are these divided by 40. torchmetrics
replaces only a negative mean by 0, which is the same unless a single cosine is negative. Scores of
different CLIP networks cannot be compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

import numpy as np
from PIL import Image

from atelier.data.policy import Policy
from atelier.errors import BadInput

from .intervals import Interval, mean_interval
from .prompt_set import fill
from .renderer import CHUNK, Progress

if TYPE_CHECKING:
    from services.engine.local import LocalEngine

LEVEL: Final = 0.95
PLACEHOLDERS: Final = ("{trigger}", "{class}")


class Clip(Protocol):
    """The network of the policy. Each method returns feature rows of unit length."""

    def clip_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return [images, features] in the space that CLIP shares with texts."""

    def clip_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return [texts, features] in the space that CLIP shares with images."""


@dataclass(frozen=True)
class Captioned:
    """A picture and the text that it is compared with; `seed` is None for an existing picture."""

    image: Image.Image
    text: str
    seed: int | None = None


@dataclass(frozen=True)
class PromptScore:
    """The scores of the pictures of one prompt."""

    text: str
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the pictures."""
        return float(np.mean(self.scores))


@dataclass(frozen=True)
class ClipScore:
    """The scores of all prompts, and the mean of the prompts' means with its 95 % interval.

    If a prompt has several pictures, the interval is `over` the pictures of these prompts.
    Otherwise it is over the prompts, as a sample of many. It is None for a single picture.
    """

    prompts: tuple[PromptScore, ...]
    mean: float
    ci: Interval | None
    over: Literal["pictures", "prompts"]


def clip_score(captioned: Sequence[Captioned], clip: Clip) -> ClipScore:
    """Return the CLIP score of pictures, with the prompts in the order of their first picture."""
    images = clip.clip_images([each.image for each in captioned])
    texts = clip.clip_texts([each.text for each in captioned])
    by_prompt: dict[str, list[float]] = {}
    for each, score in zip(captioned, scaled(images, texts), strict=True):
        by_prompt.setdefault(each.text, []).append(float(score))
    return summed_up(by_prompt)


def scaled(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the score of each pair of rows, from 0 to 100; the rows have unit length."""
    return 100 * np.maximum(0.0, (images * texts).sum(axis=1))


def summed_up(scores: Mapping[str, Sequence[float]]) -> ClipScore:
    """Return the mean of the prompts' means with its interval, from the scores by prompt."""
    prompts = tuple(PromptScore(text, tuple(values)) for text, values in scores.items())
    several = any(len(each.scores) > 1 for each in prompts)
    samples = [np.array(each.scores) for each in prompts]
    if not several:
        samples = [np.array([each.mean for each in prompts])]
    return ClipScore(
        prompts,
        float(np.mean([each.mean for each in prompts])),
        mean_interval(samples, LEVEL, rate=False),
        "pictures" if several else "prompts",
    )


def generated(
    engine: "LocalEngine",
    prompts: Sequence[str],
    seeds: int,
    policy: Policy,
    progress: Progress,
) -> list[Captioned]:
    """Generate every prompt with the seeds 0, 1, … and the settings of the policy.

    The pictures show the engine's first adapter, or the base if it has none. `{trigger}` in a
    prompt is replaced by the trigger words; CLIP has not learnt them, so its text has the class
    instead. Raises BadInput if a prompt has a placeholder and there is no adapter.
    """
    from services.engine import ImageRequest

    cases = [(*_filled(engine, prompt), seed) for prompt in prompts for seed in range(seeds)]
    requests = [
        ImageRequest(
            prompt=prompt,
            adapters=(engine.use(0),) if engine.adapters else (),
            scheduler=policy.scheduler,
            seed=seed,
            steps=policy.steps,
            guidance_scale=policy.guidance_scale,
        )
        for prompt, _, seed in cases
    ]
    images: list[Image.Image] = []
    for start in range(0, len(requests), CHUNK):
        progress("pictures", start, len(requests))
        results = engine.engine.generate_many(requests[start : start + CHUNK])
        images += [Image.fromarray(result.images[0]) for result in results]
    progress("pictures", len(requests), len(requests))
    return [
        Captioned(image, text, seed) for image, (_, text, seed) in zip(images, cases, strict=True)
    ]


def _filled(engine: "LocalEngine", prompt: str) -> tuple[str, str]:
    """Return the prompt for the engine and the text for CLIP."""
    if not engine.adapters:
        if any(each in prompt for each in PLACEHOLDERS):
            raise BadInput(f"prompt {prompt!r}: only an adapter fills placeholders; give --adapter")
        return prompt, prompt
    manifest = engine.adapters[0].package.manifest
    noun = manifest.noun
    return (
        fill(prompt, trigger=manifest.trigger, noun=noun),
        fill(prompt, trigger=noun, noun=noun),
    )
