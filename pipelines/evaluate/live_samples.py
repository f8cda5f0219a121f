"""Reads the sampled pictures of a version from the registry, and measures them."""

import io
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import ValidationError

from atelier.contract.sample import CHUNK, Sample, attested_folder
from atelier.data.live_policy import LiveMeasure
from atelier.data.manifest import Manifest
from atelier.stores.registry import Registry, VersionInfo

from .live import LivePicture, LiveSide
from .measures import ReferenceSet, Scorer


@dataclass(frozen=True)
class LiveSample:
    """A sampled picture and its request. `picture` is its path in the run of the version."""

    picture: str
    image: Image.Image
    sample: Sample


def live_samples(
    registry: Registry, info: VersionInfo, environment: str
) -> tuple[list[LiveSample], int]:
    """Return the samples of exactly this package, and the number of other files beside them."""
    samples, others = [], 0
    folder = attested_folder(environment)
    with tempfile.TemporaryDirectory() as aside:
        for file in registry.fetch_attested(info, folder, Path(aside)):
            place = f"attestations/{info.version}/{folder}/{file.name}"
            found = read_sample(file.read_bytes(), place)
            if found is not None and found.sample.digest == info.digest:
                samples.append(found)
            else:
                others += 1
    return samples, others


def read_sample(data: bytes, place: str) -> LiveSample | None:
    """Return the sample in a PNG file, or None if the file is not a sample."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            text = getattr(image, "text", {}).get(CHUNK, "")
            return LiveSample(place, image.convert("RGB"), Sample.model_validate_json(text))
    except (OSError, SyntaxError, ValidationError):  # PIL raises SyntaxError for a broken PNG
        return None


def measured(
    info: VersionInfo,
    manifest: Manifest,
    samples: Sequence[LiveSample],
    references: ReferenceSet,
    scorer: Scorer,
    *,
    skipped: int = 0,
) -> LiveSide:
    """Measure the samples whose prompt asks for the subject; count the others as skipped.

    The measures are those of an evaluation: `subject` (DINO) and `image` (CLIP-I) are the mean
    similarity to the references, `text` (CLIP-T) the similarity to the prompt with the class in
    place of the trigger.
    """
    asked = [one for one in samples if _names_subject(one.sample.prompt, manifest.trigger)]
    values = _values(asked, manifest, references, scorer) if asked else []
    return LiveSide(
        version=info.version,
        digest=info.digest,
        run=info.run_id,
        references=references.digest,
        pictures=tuple(
            LivePicture(picture=one.picture, values=found)
            for one, found in zip(asked, values, strict=True)
        ),
        skipped=skipped + len(samples) - len(asked),
    )


def text_for_clip(prompt: str, trigger: str, noun: str) -> str:
    """Return a prompt with the class in place of the trigger, which CLIP has not learnt."""
    return _trigger(trigger).sub(lambda _: noun, prompt) if trigger else prompt


def _values(
    samples: Sequence[LiveSample],
    manifest: Manifest,
    references: ReferenceSet,
    scorer: Scorer,
) -> list[dict[LiveMeasure, float]]:
    images = [one.image for one in samples]
    noun = manifest.noun
    texts = [text_for_clip(one.sample.prompt, manifest.trigger, noun) for one in samples]
    dino, clip = scorer.dino(images), scorer.clip_images(images)
    columns: dict[LiveMeasure, np.ndarray] = {
        "subject": (dino @ scorer.dino(references.references).T).mean(axis=1),
        "image": (clip @ scorer.clip_images(references.references).T).mean(axis=1),
        "text": (clip * scorer.clip_texts(texts)).sum(axis=1),
    }
    return [
        {name: round(float(column[i]), 6) for name, column in columns.items()}
        for i in range(len(samples))
    ]


def _names_subject(prompt: str, trigger: str) -> bool:
    return not trigger or _trigger(trigger).search(prompt) is not None


def _trigger(trigger: str) -> re.Pattern[str]:
    """Return the pattern of the trigger as whole words, in any case."""
    words = r"\s+".join(map(re.escape, trigger.split()))
    return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
