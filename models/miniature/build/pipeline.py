"""Assembles the parts to a `StableDiffusionXLPipeline`, and saves the pipeline in fp16."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline
from transformers import CLIPTokenizer

from .diffusion import Denoiser
from .files import replacing

FOLDERS: Final[tuple[str, ...]] = (
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "unet",
    "vae",
)


def assemble(
    vae: AutoencoderKL, model: Denoiser, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]
) -> StableDiffusionXLPipeline:
    """Return a pipeline of these parts with the scheduler settings of SDXL."""
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=model.text.first,
        text_encoder_2=model.text.second,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=model.unet,
        scheduler=EulerDiscreteScheduler(
            num_train_timesteps=1000,
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            timestep_spacing="leading",
            steps_offset=1,
        ),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_pipeline(pipeline: StableDiffusionXLPipeline, folder: Path) -> None:
    """Save a pipeline in fp16 and replace each part atomically; weights in memory are rounded."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".saving-", dir=folder) as aside:
        pipeline.to(dtype=torch.float16).save_pretrained(aside)
        pipeline.to(dtype=torch.float32)
        for name in ("text_encoder", "text_encoder_2"):
            declare_float32(Path(aside) / name)
        for name in FOLDERS:
            with replacing(folder / name) as part:
                (Path(aside) / name).rename(part)
        (Path(aside) / "model_index.json").replace(folder / "model_index.json")


def declare_float32(folder: Path) -> None:
    """Set the dtype in a model's config to float32, although its weights are stored in fp16.

    If a caller passes no dtype, transformers loads in the dtype of the config but diffusers in
    fp32. `StableDiffusionXLPipeline.from_pretrained` would otherwise mix the two and fail.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
