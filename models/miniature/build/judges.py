"""The CLIP scorer: a small CLIP that compares pictures with texts.

It is trained on drawn pictures that include random characters. It therefore recognises parts that
are not in the training pictures of the base model, such as helmets, capes and hammers.
"""

from pathlib import Path
from random import Random
from typing import Final

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from .data import Drawn
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


def save_clip(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Save a `CLIPModel` with its `CLIPProcessor`, in fp16. The weights in memory are rounded."""
    size = {"height": SIZE, "width": SIZE}
    images = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=size, **_PIXELS)
    with replacing(folder) as aside:
        model.half().save_pretrained(aside)
        CLIPProcessor(images, tokenizer).save_pretrained(aside)
        declare_float32(aside)
    model.float()
