"""What the miniature is worth, in figures: measured on the saved folder as anyone would load it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPModel

from .classifier import ASPECTS, Classifier, classify
from .data import POSES, Drawn, held_out_scenes, load_drawn
from .files import load_state
from .progress import Progress
from .sheets import write_sheets
from .vae import psnr
from .world import Scene, common_scene, plain_caption

CAPTIONS: Final[int] = 200
HELD_OUT_CAPTIONS: Final[int] = 60
DRAWN: Final[int] = 500
CHOICES: Final[int] = 150  # pictures on which CLIP chooses among captions
STEPS: Final[int] = 20
GUIDANCE: Final[float] = 4.0
_BATCH: Final[int] = 20

Shares = dict[str, float]


@dataclass(frozen=True)
class Figures:
    """Everything the model card tells; shares are between 0 and 1."""

    psnr: dict[str, float]
    classifier: Shares
    captions: dict[str, Shares]
    clip: Shares
    dino: Shares
    parameters: dict[str, int]
    megabytes: float
    steps: dict[str, int]


def measure(
    folder: Path, classifier: Classifier, work: Path, device: torch.device, progress: Progress
) -> Figures:
    """Measure the pipeline and the scorers in `folder`; draws the card's pictures on the way."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder).to(device)
    pipeline.set_progress_bar_config(disable=True)
    classifier.to(device)
    drawn = load_drawn(work, "held-out", DRAWN, progress)
    strangers = load_drawn(work, "strangers", DRAWN, progress)
    rng = Random("quality")
    asked = {
        "random": [common_scene(rng) for _ in range(CAPTIONS)],
        "held-out": list(islice(held_out_scenes(rng), HELD_OUT_CAPTIONS)),
    }
    captions: dict[str, Shares] = {}
    pictures: dict[str, torch.Tensor] = {}
    for name, scenes in asked.items():
        pictures[name] = generate(pipeline, [plain_caption(s) for s in scenes], progress)
        captions[name] = right(classifier, pictures[name], scenes, device)
    shuffled = asked["random"][1:] + asked["random"][:1]
    captions["shuffled"] = right(classifier, pictures["random"], shuffled, device)
    write_sheets(folder / "pictures", pipeline.vae, drawn, pictures["random"], asked["random"])
    return Figures(
        psnr=_psnr(pipeline.vae, drawn, strangers, device),
        classifier=right(classifier, drawn.pictures, drawn.scenes, device),
        captions=captions,
        clip=_clip_choices(folder / "scorers" / "clip", drawn, device),
        dino=_individuals(folder / "scorers" / "dino", strangers, device),
        parameters=_parameters(pipeline),
        megabytes=sum(p.stat().st_size for p in folder.rglob("*.safetensors")) / 1e6,
        steps=_steps(work),
    )


def generate(
    pipeline: StableDiffusionXLPipeline, prompts: Sequence[str], progress: Progress
) -> torch.Tensor:
    """uint8 [prompts, 3, 128, 128]: the picture of each prompt, its seed its number."""
    rows = []
    starts = range(0, len(prompts), _BATCH)
    with progress.bar("generate", len(starts)) as bar:
        for start in starts:
            batch = list(prompts[start : start + _BATCH])
            images = pipeline(
                batch,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                generator=[torch.Generator().manual_seed(start + n) for n in range(len(batch))],
            ).images
            rows += [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
            bar.advance()
    return torch.stack(rows)


def right(
    classifier: Classifier, pictures: torch.Tensor, scenes: Iterable[Scene], device: torch.device
) -> Shares:
    """The share of pictures in which the classifier sees each aspect, and all, as in the scene."""
    seen = classify(classifier, pictures, device)
    wanted = list(scenes)
    shares: Shares = {}
    every = np.ones(len(wanted), bool)
    for position, name in enumerate(ASPECTS):
        hits = np.array(
            [s.combination[position] == value for s, value in zip(wanted, seen[name], strict=True)]
        )
        shares[name], every = float(hits.mean()), every & hits
    shares["all"] = float(every.mean())
    shares["mean"] = float(np.mean([shares[name] for name in ASPECTS]))
    return shares


def _psnr(
    vae: torch.nn.Module, drawn: Drawn, strangers: Drawn, device: torch.device
) -> dict[str, float]:
    held_out = psnr(vae, drawn.pictures[:CAPTIONS], device)
    characters = psnr(vae, strangers.pictures[:CAPTIONS], device)
    return {
        "held-out": held_out.mean().item(),
        "held-out, worst twentieth": held_out.quantile(0.05).item(),
        "characters": characters.mean().item(),
    }


@torch.no_grad()
def _clip_choices(folder: Path, drawn: Drawn, device: torch.device) -> Shares:
    """How often, among captions that differ in one aspect alone, the true one scores highest."""
    clip = CLIPModel.from_pretrained(folder).eval().to(device)
    words = AutoTokenizer.from_pretrained(folder)
    pixels = AutoImageProcessor.from_pretrained(folder)
    shown = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in drawn.pictures[:CHOICES]]
    images = _features(clip.get_image_features(**pixels(shown, return_tensors="pt").to(device)))
    shares = {}
    for position, (name, values) in enumerate(ASPECTS.items()):
        texts = [
            plain_caption(_with(scene, name, value))
            for scene in drawn.scenes[:CHOICES]
            for value in values
        ]
        tokens = words(texts, padding=True, return_tensors="pt").to(device)
        features = _features(clip.get_text_features(**tokens)).view(CHOICES, len(values), -1)
        chosen = (features @ images[:, :, None]).squeeze(-1).argmax(1).tolist()
        truth = [s.combination[position] for s in drawn.scenes[:CHOICES]]
        shares[name] = float(np.mean([values[c] == t for c, t in zip(chosen, truth, strict=True)]))
    return shares


def _with(scene: Scene, aspect: str, value: str) -> Scene:
    if aspect == "place":
        return replace(scene, place=value)
    return replace(scene, subject=replace(scene.subject, **{aspect: value}))


@torch.no_grad()
def _individuals(folder: Path, strangers: Drawn, device: torch.device) -> Shares:
    """Area under the curve: is a picture nearer to the same individual elsewhere than to others?"""
    model = AutoModel.from_pretrained(folder).eval().to(device)
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


def _steps(work: Path) -> dict[str, int]:
    """How long each part has been trained."""
    names = ("vae", "decoder", "denoiser", "classifier", "clip", "dino")
    states = {name: load_state(work / f"{name}.pt") for name in names}
    return {name: int(state["step"]) if state else 0 for name, state in states.items()}
