"""What the miniature is worth, in figures: measured on the saved folder as anyone would load it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from math import prod
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPModel

from atelier.stores.base_files import base_digest

from .classifier import ASPECTS, Classifier, classify
from .data import POSES, Drawn, held_out_scenes, load_drawn
from .progress import BuildProgress
from .sampling import ImageSampling, generate
from .sheets import write_sheets
from .steps import recorded_steps
from .vae import psnr
from .world import ACCENTS, Scene, common_scene, plain_caption

Shares = dict[str, float]

# The world draws every aspect evenly and apart from the others, so whatever a picture shows, a
# caption drawn for another one agrees with it this often.
CHANCE: Final[Shares] = {
    **{name: 1 / len(values) for name, values in ASPECTS.items()},
    "all": 1 / prod(len(values) for values in ASPECTS.values()),
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured, and how pictures are asked for."""

    captions: int = 200  # drawn as for training, so a tenth of them are held-out combinations
    held_out: int = 100  # captions of held-out combinations alone
    drawn: int = 500  # pictures for the classifier, the VAE and the scorers
    reconstructed: int = 200  # of them, by the VAE
    choices: int = 150  # of them, on which CLIP chooses among captions
    sampling: ImageSampling = field(default_factory=ImageSampling)


@dataclass(frozen=True)
class Figures:
    """Everything the model card tells; shares are between 0 and 1."""

    base: str  # the digest of the weights that were measured
    sizes: Sizes
    psnr: dict[str, float]
    classifier: Shares
    captions: dict[str, Shares]
    clip: Shares
    dino: Shares
    parameters: dict[str, int]
    megabytes: float
    steps: dict[str, int]


def measure(
    folder: Path,
    classifier: Classifier,
    work: Path,
    sizes: Sizes,
    workers: int,
    device: torch.device,
    progress: BuildProgress,
) -> Figures:
    """Measure the pipeline and the scorers in `folder`; draws the card's pictures on the way."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, use_safetensors=True).to(device)
    classifier.to(device)
    drawn = load_drawn(work, "held-out", sizes.drawn, progress)
    strangers = load_drawn(work, "strangers", sizes.drawn, progress)
    rng = Random("quality")
    asked = [common_scene(rng) for _ in range(sizes.captions)]
    unseen = list(islice(held_out_scenes(rng), sizes.held_out))
    captions = [plain_caption(scene) for scene in (*asked, *unseen)]
    pictures = generate(folder, captions, sizes.sampling, workers, device)
    own, shuffled = agreement(classify(classifier, pictures[: len(asked)], device), asked)
    held_out, _ = agreement(classify(classifier, pictures[len(asked) :], device), unseen)
    itself, _ = agreement(classify(classifier, drawn.pictures, device), drawn.scenes)
    write_sheets(folder / "pictures", pipeline.vae, drawn, pictures[: len(asked)], asked)
    return Figures(
        base=base_digest(folder),
        sizes=sizes,
        psnr=_psnr(pipeline.vae, drawn, strangers, sizes.reconstructed, device),
        classifier=itself,
        captions={"random": own, "held-out": held_out, "shuffled": shuffled, "chance": CHANCE},
        clip=_clip_choices(folder / "scorers" / "clip", drawn, sizes.choices, device),
        dino=_individuals(folder / "scorers" / "dino", strangers, device),
        parameters=_parameters(pipeline),
        megabytes=sum(p.stat().st_size for p in folder.rglob("*.safetensors")) / 1e6,
        steps=recorded_steps(folder),
    )


def agreement(seen: dict[str, list[str]], scenes: Sequence[Scene]) -> tuple[Shares, Shares]:
    """How often each aspect, and all at once, is seen as in the picture's own scene, and as in the
    others': what shuffling the captions gives, over all ways to pair a picture with a stranger's.
    """
    shown = {
        name: np.array([scene.combination[position] for scene in scenes])
        for position, name in enumerate(ASPECTS)
    }
    # [pictures, scenes]: whether the picture shows what the scene asks for
    same = {name: np.array(seen[name])[:, None] == shown[name] for name in ASPECTS}
    same["all"] = np.logical_and.reduce(list(same.values()))
    others = ~np.eye(len(scenes), dtype=bool)
    own = {name: float(one.diagonal().mean()) for name, one in same.items()}
    return own, {name: float(one[others].mean()) for name, one in same.items()}


def _psnr(
    vae: torch.nn.Module, drawn: Drawn, strangers: Drawn, count: int, device: torch.device
) -> dict[str, float]:
    held_out = psnr(vae, drawn.pictures[:count], device)
    characters = psnr(vae, strangers.pictures[:count], device)
    return {
        "held-out": held_out.mean().item(),
        "held-out, worst twentieth": held_out.quantile(0.05).item(),
        "characters": characters.mean().item(),
    }


@torch.no_grad()
def _clip_choices(folder: Path, drawn: Drawn, count: int, device: torch.device) -> Shares:
    """How often, among captions that differ in one aspect alone, the true one scores highest."""
    clip = CLIPModel.from_pretrained(folder, use_safetensors=True).eval().to(device)
    words = AutoTokenizer.from_pretrained(folder)
    pixels = AutoImageProcessor.from_pretrained(folder)
    shown = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in drawn.pictures[:count]]
    images = _features(clip.get_image_features(**pixels(shown, return_tensors="pt").to(device)))
    shares = {}
    for position, (name, values) in enumerate(ASPECTS.items()):
        texts = [
            plain_caption(swapped(scene, name, value))
            for scene in drawn.scenes[:count]
            for value in values
        ]
        tokens = words(texts, padding=True, return_tensors="pt").to(device)
        features = _features(clip.get_text_features(**tokens)).view(count, len(values), -1)
        chosen = (features @ images[:, :, None]).squeeze(-1).argmax(1).tolist()
        truth = [s.combination[position] for s in drawn.scenes[:count]]
        shares[name] = float(np.mean([values[c] == t for c, t in zip(chosen, truth, strict=True)]))
    return shares


def swapped(scene: Scene, aspect: str, value: str) -> Scene:
    """The scene with another value of one aspect; a colour brings its usual second colour along,
    since a caption would name any other."""
    if aspect == "place":
        return replace(scene, place=value)
    subject = replace(scene.subject, **{aspect: value})
    usual = scene.subject.accent == ACCENTS[scene.subject.colour]
    if aspect == "colour" and (usual or subject.accent == value):
        subject = replace(subject, accent=ACCENTS[value])
    return replace(scene, subject=subject)


@torch.no_grad()
def _individuals(folder: Path, strangers: Drawn, device: torch.device) -> Shares:
    """Area under the curve: is a picture nearer to the same individual elsewhere than to others?"""
    model = AutoModel.from_pretrained(folder, use_safetensors=True).eval().to(device)
    pixels = AutoImageProcessor.from_pretrained(folder)
    shown = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in strangers.pictures]
    states = model(**pixels(shown, return_tensors="pt").to(device)).last_hidden_state[:, 0]
    features = torch.nn.functional.normalize(states, dim=-1).cpu().numpy()
    cosine = features @ features.T
    individual = np.arange(len(shown)) // POSES
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
    """The chance that a positive is above a negative."""
    below = np.searchsorted(np.sort(negative), positive)
    return float(below.mean() / len(negative))


def _features(output: Any) -> torch.Tensor:
    features = getattr(output, "pooler_output", output)  # transformers 5 wraps it
    return torch.nn.functional.normalize(features, dim=-1)


def _parameters(pipeline: StableDiffusionXLPipeline) -> dict[str, int]:
    return {
        name: sum(p.numel() for p in part.parameters())
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
