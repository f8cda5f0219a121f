"""Build the miniature SDXL from scratch: `python -m models.miniature.build` (see README.md)."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from .files import StateError
from .progress import BuildProgress
from .stages import OTHER_STAGES, STAGES, BuildSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the given stages, or all of them. Exits with code 2 if a stage raises StateError."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    stages = {**STAGES, **OTHER_STAGES}
    if unknown := set(chosen.stages) - stages.keys():
        parser.error(f"no stage {', '.join(sorted(unknown))}; the stages are {', '.join(stages)}")
    torch.set_num_threads(os.cpu_count() or 1)
    settings = BuildSettings(
        work=chosen.work,
        output=chosen.output,
        workers=1 if torch.cuda.is_available() else chosen.workers,
        pictures=chosen.pictures,
        vae_steps=chosen.vae_steps,
        decoder_steps=chosen.decoder_steps,
        denoiser_steps=chosen.denoiser_steps,
        oracle_steps=chosen.oracle_steps,
        clip_steps=chosen.clip_steps,
        dino_steps=chosen.dino_steps,
    )
    settings.work.mkdir(parents=True, exist_ok=True)
    progress = BuildProgress()
    for name in chosen.stages or STAGES:
        progress.say(f"== {name}: {stages[name].__doc__}")
        try:
            stages[name](settings, progress)
        except StateError as error:
            parser.exit(2, f"{name}: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="models.miniature.build", description=__doc__)
    parser.add_argument(
        "stages", nargs="*", metavar="stage", help=f"any of {', '.join(STAGES)} (default: all)"
    )
    parser.add_argument("--work", type=Path, default=Path("build/miniature"), help="state folder")
    parser.add_argument("--output", type=Path, default=Path("models/miniature"))
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--pictures", type=int, default=24000, help="pictures for the denoiser")
    parser.add_argument("--vae-steps", type=int, default=3000)
    parser.add_argument("--decoder-steps", type=int, default=1000)
    parser.add_argument("--denoiser-steps", type=int, default=16000)
    parser.add_argument("--oracle-steps", type=int, default=8000)
    parser.add_argument("--clip-steps", type=int, default=2000)
    parser.add_argument("--dino-steps", type=int, default=6000)
    return parser


if __name__ == "__main__":
    main()
