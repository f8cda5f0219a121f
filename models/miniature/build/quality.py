"""Measures the quality of the miniature, loaded from its saved folder."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from math import prod
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from atelier.stores.base_files import base_digest

from .attributes import AttributeFigures, AttributeSizes, measure_attributes
from .data import POSES, Drawn, held_out_scenes, load_drawn
from .oracle import ASPECTS, Oracle, classify
from .progress import BuildProgress
from .sampling import ImageSampling, generate
from .sheets import write_sheets
from .steps import recorded_steps
from .triplets import encoder_features
from .vae import fidelity
from .world import ACCENTS, Scene, common_scene, plain_caption

Shares = dict[str, float]

# Aspects are distributed uniformly and independently of each other, so the caption of another
# picture agrees with a picture this often.
CHANCE: Final[Shares] = {
    **{name: 1 / len(values) for name, values in ASPECTS.items()},
    "all": 1 / prod(len(values) for values in ASPECTS.values()),
}


@dataclass(frozen=True)
class Sizes:
    """The numbers of pictures to measure, and the sampling settings."""

    captions: int = 200  # random scenes, of which a tenth are held-out combinations
    held_out: int = 100  # scenes with held-out combinations only
    drawn: int = 500  # pictures for the oracle, the VAE and the scorers
    reconstructed: int = 200  # number of drawn pictures that the VAE reconstructs
    choices: int = 150  # number of drawn pictures for which CLIP chooses among captions
    sampling: ImageSampling = field(default_factory=ImageSampling)
    attributes: AttributeSizes = field(default_factory=AttributeSizes)


@dataclass(frozen=True)
class Figures:
    """The measurements in the model card; shares are between 0 and 1, PSNR is in dB."""

    base: str  # the digest of the weights that were measured
    sizes: Sizes
    psnr: dict[str, float]
    sharpness: dict[str, float]  # gradient energy of reconstructions relative to the drawings
    oracle: Shares  # by aspect, and for all aspects together
    captions: dict[str, Shares]
    clip: Shares
    dino: Shares
    attributes: AttributeFigures
    parameters: dict[str, int]
    megabytes: float
    steps: dict[str, int]


def measure(
    folder: Path,
    oracle: Oracle,
    work: Path,
    sizes: Sizes,
    workers: int,
    device: torch.device,
    progress: BuildProgress,
) -> Figures:
    """Measure the pipeline and the scorers in `folder`, and write the pictures of the card."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, use_safetensors=True).to(device)
    oracle.to(device)
    drawn = load_drawn(work, "held-out", sizes.drawn, progress)
    strangers = load_drawn(work, "strangers", sizes.drawn, progress)
    rng = Random("quality")
    random_scenes = [common_scene(rng) for _ in range(sizes.captions)]
    unseen = list(islice(held_out_scenes(rng), sizes.held_out))
    captions = [plain_caption(scene) for scene in (*random_scenes, *unseen)]
    pictures = generate(folder, captions, sizes.sampling, workers, device)
    count = len(random_scenes)
    own, shuffled = agreement(classify(oracle, pictures[:count], device), random_scenes)
    held_out, _ = agreement(classify(oracle, pictures[count:], device), unseen)
    itself, _ = agreement(classify(oracle, drawn.pictures, device), drawn.scenes)
    psnr, sharpness = _fidelity(pipeline.vae, drawn, strangers, sizes.reconstructed, device)
    write_sheets(folder / "pictures", pipeline.vae, drawn, pictures[:count], random_scenes)
    return Figures(
        base=base_digest(folder),
        sizes=sizes,
        psnr=psnr,
        sharpness=sharpness,
        oracle=itself,
        captions={"random": own, "held-out": held_out, "shuffled": shuffled, "chance": CHANCE},
        clip=_clip_choices(folder / "scorers" / "clip", drawn, sizes.choices, device),
        dino=_individuals(folder / "scorers" / "dino", strangers, device),
        attributes=measure_attributes(
            folder, oracle, pipeline.vae, work, sizes.attributes, device, progress
        ),
        parameters=_parameters(pipeline),
        megabytes=sum(p.stat().st_size for p in folder.rglob("*.safetensors")) / 1e6,
        steps=recorded_steps(folder),
    )


def agreement(predicted: dict[str, list[str]], scenes: Sequence[Scene]) -> tuple[Shares, Shares]:
    """Return the shares of predicted aspects that agree with the picture's scene, and with others.

    The shares are by aspect, and for all aspects together (`all`). The second result is the
    average over all ways to shuffle the captions.
    """
    shown = {
        name: np.array([scene.combination[position] for scene in scenes])
        for position, name in enumerate(ASPECTS)
    }
    # bool [pictures, scenes]: whether the prediction for the picture agrees with the scene
    same = {name: np.array(predicted[name])[:, None] == shown[name] for name in ASPECTS}
    same["all"] = np.logical_and.reduce(list(same.values()))
    others = ~np.eye(len(scenes), dtype=bool)
    own = {name: float(agrees.diagonal().mean()) for name, agrees in same.items()}
    return own, {name: float(agrees[others].mean()) for name, agrees in same.items()}


def _fidelity(
    vae: AutoencoderKL, drawn: Drawn, strangers: Drawn, count: int, device: torch.device
) -> tuple[dict[str, float], dict[str, float]]:
    """Return PSNR and edge sharpness of the VAE's reconstructions."""
    held_out, sharp = fidelity(vae, drawn.pictures[:count], device)
    characters, sharp_characters = fidelity(vae, strangers.pictures[:count], device)
    psnr = {
        "held-out": held_out.mean().item(),
        "held-out, worst twentieth": held_out.quantile(0.05).item(),
        "characters": characters.mean().item(),
    }
    return psnr, {"held-out": sharp.mean().item(), "characters": sharp_characters.mean().item()}


@torch.no_grad()
def _clip_choices(folder: Path, drawn: Drawn, count: int, device: torch.device) -> Shares:
    """Return how often the correct caption scores highest, by the differing aspect."""
    clip = CLIPModel.from_pretrained(folder, use_safetensors=True).eval().to(device)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    shown = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in drawn.pictures[:count]]
    inputs = processor(shown, return_tensors="pt").to(device)
    images = _features(clip.get_image_features(**inputs))
    shares = {}
    for position, (name, values) in enumerate(ASPECTS.items()):
        texts = [
            plain_caption(swapped(scene, name, value))
            for scene in drawn.scenes[:count]
            for value in values
        ]
        tokens = tokenizer(texts, padding=True, return_tensors="pt").to(device)
        features = _features(clip.get_text_features(**tokens)).view(count, len(values), -1)
        chosen = (features @ images[:, :, None]).squeeze(-1).argmax(1).tolist()
        truth = [s.combination[position] for s in drawn.scenes[:count]]
        shares[name] = float(np.mean([values[c] == t for c, t in zip(chosen, truth, strict=True)]))
    return shares


def swapped(scene: Scene, aspect: str, value: str) -> Scene:
    """Return the scene with another value of one aspect.

    A new colour also changes the second colour to the usual one, because captions name an unusual
    one.
    """
    if aspect == "place":
        return replace(scene, place=value)
    subject = replace(scene.subject, **{aspect: value})
    usual = scene.subject.accent == ACCENTS[scene.subject.colour]
    if aspect == "colour" and (usual or subject.accent == value):
        subject = replace(subject, accent=ACCENTS[value])
    return replace(scene, subject=subject)


def _individuals(folder: Path, strangers: Drawn, device: torch.device) -> Shares:
    """Return areas under the ROC curve, and mean cosines, of the scorer for pairs of individuals.

    The area is the probability that two pictures of an individual have a higher cosine than
    pictures of two individuals.
    """
    features = encoder_features(folder, strangers.pictures, device)
    cosine = features @ features.T
    individual = np.arange(len(features)) // POSES
    kind = np.array([scene.subject.kind for scene in strangers.scenes])
    upper = np.triu(np.ones_like(cosine, bool), 1)
    same = upper & (individual[:, None] == individual)
    other = upper & ~(individual[:, None] == individual)
    alike = other & (kind[:, None] == kind)
    return {
        "others": _auc(cosine[same], cosine[other]),
        "others of the same kind": _auc(cosine[same], cosine[alike]),
        "cosine, same": float(cosine[same].mean()),
        "cosine, others of the same kind": float(cosine[alike].mean()),
    }


def _auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the probability that a positive is above a negative."""
    below = np.searchsorted(np.sort(negative), positive)
    return float(below.mean() / len(negative))


def _features(output: Any) -> torch.Tensor:
    features = getattr(output, "pooler_output", output)  # transformers 5 wraps the features
    return torch.nn.functional.normalize(features, dim=-1)


def _parameters(pipeline: StableDiffusionXLPipeline) -> dict[str, int]:
    return {
        name: sum(p.numel() for p in part.parameters())
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
