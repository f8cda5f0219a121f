"""The two scorers that evaluate adapters: a small CLIP, and a self-supervised image encoder.

Both are trained on drawn pictures that include random characters. The scorers therefore recognise
parts that are not in the training pictures of the base model, such as helmets, capes and hammers.
"""

from pathlib import Path
from random import Random
from typing import Final

import torch
import torch.nn.functional as F
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from .data import POSES, Drawn
from .files import replacing
from .pipeline import declare_float32
from .progress import BuildProgress
from .team import Team
from .text import token_ids
from .trainer import Run, train
from .vae import as_input
from .world import PLACES, SIZE, caption, plain_caption

PATCH: Final[int] = 16
CLIP_BATCH: Final[int] = 64
TWIN_PAIRS: Final[int] = 48
TEMPERATURE: Final[float] = 0.1
_PIXELS: Final[dict[str, object]] = {
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return an untrained CLIP with two small encoders, for the tokenizer of the pipeline."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=64,
    )
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64)
    )


def clip_run(work: Path, steps: int) -> Run:
    """Return the settings for training CLIP, with the state in `work`."""
    return Run("clip", work / "clip.pt", steps, 1e-3, 0.05, decay=0.99, seed=7)


def train_clip(
    drawn: list[Drawn],
    tokenizer: CLIPTokenizer,
    run: Run,
    device: torch.device,
    progress: BuildProgress,
) -> CLIPModel:
    """Train CLIP contrastively on pictures and captions; return it with averaged weights.

    Half of the batches have full captions and a single place, so that only the subject
    distinguishes their pictures. The other batches have all places and varied captions.
    """
    torch.manual_seed(7)
    model = new_clip(tokenizer).to(device)
    rng = Random("clip")
    scenes = [scene for source in drawn for scene in source.scenes]
    full = token_ids(tokenizer, [plain_caption(scene) for scene in scenes])
    free = token_ids(tokenizer, [caption(scene, rng) for scene in scenes])
    longest = int((torch.cat([full, free]) != tokenizer.eos_token_id).sum(1).max()) + 1
    pictures = torch.cat([source.pictures for source in drawn])
    all_rows = torch.arange(len(scenes))
    places = [torch.tensor([scene.place == place for scene in scenes]) for place in PLACES]
    at_place = [all_rows[mask] for mask in places]

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        pool = at_place[step // 2 % len(at_place)] if step % 2 else all_rows
        rows = pool[torch.randint(len(pool), (CLIP_BATCH,), generator=generator)]
        tokens = (full if step % 2 else free)[rows, :longest]
        pixels = as_input(pictures[rows]).to(device)
        return model(input_ids=tokens.to(device), pixel_values=pixels, return_loss=True).loss

    train(run, {"clip": model}, loss, Team(), progress)
    return model.eval()


def new_twins() -> ViTModel:
    """Return an untrained vision transformer like DINO; its class token is the image feature."""
    return ViTModel(
        ViTConfig(
            hidden_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=256,
            image_size=SIZE,
            patch_size=PATCH,
        ),
        add_pooling_layer=False,
    )


def twins_run(work: Path, steps: int) -> Run:
    """Return the settings for training the image encoder, with the state in `work`."""
    return Run("dino", work / "dino.pt", steps, 1e-3, 0.05, decay=0.99, seed=8)


def train_twins(drawn: Drawn, run: Run, device: torch.device, progress: BuildProgress) -> ViTModel:
    """Train the image encoder by InfoNCE (van den Oord et al. 2018); return averaged weights.

    A pair is the same individual in two places, with random shift, scale and light. The pairs are
    the only supervision. They make the features independent of place and pose.
    """
    torch.manual_seed(8)
    model = new_twins().to(device)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        individuals = torch.randperm(len(drawn) // POSES, generator=generator)[:TWIN_PAIRS]
        poses = torch.rand(TWIN_PAIRS, POSES, generator=generator).argsort(1)[:, :2]
        rows = individuals[:, None] * POSES + poses
        views = [_view(drawn.pictures[rows[:, side]], generator).to(device) for side in (0, 1)]
        first, second = (image_feature(model, view) for view in views)
        logits = first @ second.T / TEMPERATURE
        truth = torch.arange(len(logits), device=device)
        return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2

    train(run, {"dino": model}, loss, Team(), progress)
    return model.eval()


def image_feature(model: ViTModel, pixels: torch.Tensor) -> torch.Tensor:
    """Return unit-length features [batch, 128] of pixels [batch, 3, SIZE, SIZE] in [-1, 1]."""
    return F.normalize(model(pixel_values=pixels).last_hidden_state[:, 0], dim=-1)


def _view(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift, scale and relight each picture at random, and mirror half of the batches."""
    count = len(pictures)
    pixels = as_input(pictures)
    scale = 0.85 + 0.3 * torch.rand(count, generator=generator)
    shift = 0.24 * (torch.rand(count, 2, generator=generator) - 0.5)
    mirrored = -1.0 if torch.rand((), generator=generator) < 0.5 else 1.0
    frame = torch.zeros(count, 2, 3)
    frame[:, 0, 0], frame[:, 1, 1], frame[:, :, 2] = scale * mirrored, scale, shift
    grid = F.affine_grid(frame, list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    light = 0.9 + 0.2 * torch.rand(count, 1, 1, 1, generator=generator)
    tint = 0.1 * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5)
    noise = 0.04 * torch.randn(moved.shape, generator=generator)
    return (moved * light + tint + noise).clamp(-1, 1)


def save_clip(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Save a `CLIPModel` with its `CLIPProcessor`, in fp16. The weights in memory are rounded."""
    size = {"height": SIZE, "width": SIZE}
    images = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=size, **_PIXELS)
    with replacing(folder) as aside:
        model.half().save_pretrained(aside)
        CLIPProcessor(images, tokenizer).save_pretrained(aside)
        declare_float32(aside)
    model.float()


def save_twins(model: ViTModel, folder: Path) -> None:
    """Save the encoder in fp16 for `AutoModel` and `AutoImageProcessor`, like ViT-S/16.

    The weights in memory are rounded.
    """
    images = ViTImageProcessor(size={"height": SIZE, "width": SIZE}, **_PIXELS)
    with replacing(folder) as aside:
        model.half().save_pretrained(aside)
        images.save_pretrained(aside)
        declare_float32(aside)
    model.float()
