"""Generates pictures for captions with the saved pipeline, in several processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline

from .progress import BuildProgress
from .team import Team, run_team

_BATCH: Final[int] = 20


@dataclass(frozen=True)
class ImageSampling:
    """Sampling settings for DPM++ (2M), which needs fewer steps than Euler."""

    steps: int = 15
    guidance: float = 4.0

    def __str__(self) -> str:
        return f"{self.steps} DPM++ steps, guidance {self.guidance:g}"


def generate(
    folder: Path,
    prompts: Sequence[str],
    sampling: ImageSampling,
    workers: int,
    device: torch.device,
) -> torch.Tensor:
    """Return a picture for each prompt, uint8 [prompts, 3, 128, 128]; its index is the seed."""
    with TemporaryDirectory() as output:
        run_team(_member, workers, folder, list(prompts), sampling, device, Path(output))
        batches = [np.load(path) for path in sorted(Path(output).glob("*.npy"))]
    return torch.from_numpy(np.concatenate(batches))


def _member(
    team: Team,
    folder: Path,
    prompts: list[str],
    sampling: ImageSampling,
    device: torch.device,
    output: Path,
) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, use_safetensors=True).to(device)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    starts = range(0, len(prompts), _BATCH)[team.rank :: team.size]
    with BuildProgress(quiet=not team.leads).bar("generate", len(starts)) as bar:
        for start in starts:
            batch = prompts[start : start + _BATCH]
            images = pipeline(
                batch,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                generator=[torch.Generator().manual_seed(start + n) for n in range(len(batch))],
            ).images
            pixels = np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])
            np.save(output / f"{start:06d}.npy", pixels)
            bar.advance()
