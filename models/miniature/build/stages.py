"""The stages of the build. Each uses the files of the earlier ones and resumes its own work."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from torch import nn

from .card import write_card
from .classifier import classifier_run, load_classifier, train_classifier
from .data import Drawn, load_drawn
from .diffusion import Denoiser, denoiser_run, new_denoiser, train_denoiser
from .examples import write_example
from .judges import (
    clip_run,
    save_clip,
    save_twins,
    train_clip,
    train_twins,
    twins_run,
)
from .latents import encode_pictures, load_latents, scaling_factor
from .pipeline import assemble, save_pipeline
from .progress import BuildProgress
from .quality import Sizes, measure
from .steps import record_steps, recorded_steps
from .team import Team, run_team
from .text import MiniatureTextEncoders, settled_tokenizers
from .trainer import adopt, load_average, steps_of
from .vae import decoder_run, load_vae, new_vae, train_decoder, train_vae, vae_run
from .widen import widen


@dataclass(frozen=True)
class BuildSettings:
    """The folders, sizes and training steps of a build."""

    work: Path
    output: Path
    workers: int
    pictures: int  # training pictures of the denoiser
    vae_steps: int
    decoder_steps: int
    denoiser_steps: int
    classifier_steps: int
    clip_steps: int
    dino_steps: int
    common: int = 24_000  # common pictures for the VAE, the classifier and the scorers
    characters: int = 6_000  # pictures of random characters
    subjects: int = 2_000  # pictures of common subjects in several places
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def scorers(self) -> Path:
        """The folder of the scorers, which is created if it does not exist."""
        folder = self.output / "scorers"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def device(self) -> torch.device:
        """A GPU if there is one, else the CPU."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def stage_vae(settings: BuildSettings, progress: BuildProgress) -> None:
    """Train the autoencoder."""
    _mixed(settings, progress)  # draws the pictures once, before the workers start
    run_team(_vae_member, settings.workers, settings)


def _vae_member(team: Team, settings: BuildSettings) -> None:
    progress = BuildProgress(quiet=not team.leads)
    drawn = _mixed(settings, progress)
    run = vae_run(settings.work, settings.vae_steps)
    train_vae(team, drawn, run, settings.device, progress, _anchor(settings))


def _anchor(settings: BuildSettings) -> AutoencoderKL | None:
    """Return the VAE of the earlier build, whose latents the saved UNet knows."""
    if not (settings.output / "vae").is_dir():
        return None
    return AutoencoderKL.from_pretrained(settings.output / "vae", use_safetensors=True).eval()


def stage_decoder(settings: BuildSettings, progress: BuildProgress) -> None:
    """Train the decoder further, without changing the latents."""
    run_team(_decoder_member, settings.workers, settings)


def _decoder_member(team: Team, settings: BuildSettings) -> None:
    progress = BuildProgress(quiet=not team.leads)
    drawn = _mixed(settings, progress)
    run = decoder_run(settings.work, settings.decoder_steps)
    train_decoder(team, load_vae(settings.work), drawn, run, settings.device, progress)


def stage_latents(settings: BuildSettings, progress: BuildProgress) -> None:
    """Encode the training pictures of the denoiser."""
    encode_pictures(settings.work, settings.pictures, settings.workers, progress)


def stage_denoiser(settings: BuildSettings, progress: BuildProgress) -> None:
    """Train the UNet and the text encoders."""
    settled_tokenizers(settings.work)  # creates them once, before the workers start
    run_team(_denoiser_member, settings.workers, settings)


def _denoiser_member(team: Team, settings: BuildSettings) -> None:
    tokenizers = settled_tokenizers(settings.work)
    latents = load_latents(settings.work, settings.pictures, tokenizers)
    run = denoiser_run(settings.work, settings.denoiser_steps)
    progress = BuildProgress(quiet=not team.leads)
    train_denoiser(team, new_denoiser(tokenizers[0]), latents, run, settings.device, progress)


def stage_save(settings: BuildSettings, progress: BuildProgress) -> None:
    """Save the pipeline with the averaged weights of the last checkpoint."""
    tokenizers = settled_tokenizers(settings.work)
    model, vae = new_denoiser(tokenizers[0]), load_vae(settings.work)
    runs = vae_run(settings.work, 0), decoder_run(settings.work, 0)
    steps = {run.name: steps_of(run.state) for run in runs if run.state.exists()}
    step = load_average(denoiser_run(settings.work, 0).state, model.modules())
    vae.register_to_config(scaling_factor=scaling_factor(settings.work))
    save_pipeline(assemble(vae, model, tokenizers), settings.output)
    record_steps(settings.output, denoiser=step, **steps)
    progress.say(f"saved the pipeline at step {step} of the denoiser")


def stage_classifier(settings: BuildSettings, progress: BuildProgress) -> None:
    """Train the classifier that measures the quality of the pipeline."""
    common = load_drawn(settings.work, "common", settings.common, progress)
    run = classifier_run(settings.work, settings.classifier_steps)
    train_classifier(common, run, settings.device, progress)
    record_steps(settings.output, classifier=steps_of(run.state))


def stage_dino(settings: BuildSettings, progress: BuildProgress) -> None:
    """Train the DINO scorer, which distinguishes individuals, and save it."""
    characters = load_drawn(settings.work, "characters", settings.characters, progress)
    subjects = load_drawn(settings.work, "subjects", settings.subjects, progress)
    individuals = Drawn(
        torch.cat([characters.pictures, subjects.pictures]), characters.scenes + subjects.scenes
    )
    run = twins_run(settings.work, settings.dino_steps)
    save_twins(train_twins(individuals, run, settings.device, progress), settings.scorers / "dino")
    record_steps(settings.output, dino=steps_of(run.state))


def stage_clip(settings: BuildSettings, progress: BuildProgress) -> None:
    """Train the CLIP scorer, and save it."""
    drawn = _mixed(settings, progress)
    tokenizer = settled_tokenizers(settings.work)[0]
    run = clip_run(settings.work, settings.clip_steps)
    clip = train_clip(drawn, tokenizer, run, settings.device, progress)
    save_clip(clip, tokenizer, settings.scorers / "clip")
    record_steps(settings.output, clip=steps_of(run.state))


def stage_adopt(settings: BuildSettings, progress: BuildProgress) -> None:
    """Create the training state from the saved pipeline, if the work folder is lost."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(settings.output, use_safetensors=True)
    steps = {"vae": 0, "denoiser": 0, **recorded_steps(settings.output)}
    torch.manual_seed(0)
    vae = new_vae()
    widen(pipeline.vae, vae)  # of an earlier build with fewer channels
    parts = {"vae": vae, "guide": nn.Conv2d(4, 3, 1)}
    adopt(vae_run(settings.work, 0).state, parts, steps["vae"])
    model = Denoiser(
        pipeline.unet, MiniatureTextEncoders(pipeline.text_encoder, pipeline.text_encoder_2)
    )
    adopt(denoiser_run(settings.work, 0).state, model.modules(), steps["denoiser"])
    pipeline.tokenizer.save_pretrained(settings.work / "tokenizer")
    pipeline.tokenizer_2.save_pretrained(settings.work / "tokenizer_2")
    factor = settings.work / "scaling_factor.txt"
    factor.write_text(repr(pipeline.vae.config.scaling_factor))
    progress.say(
        f"created the state from {settings.output}, at step {steps['denoiser']} of the denoiser"
    )


def stage_examples(settings: BuildSettings, progress: BuildProgress) -> None:
    """Draw the example pictures of the demo's character."""
    folder = settings.output.resolve().parents[1] / "examples" / "thor-cat" / "images"
    write_example(folder)
    progress.say(f"drew {folder}")


def stage_quality(settings: BuildSettings, progress: BuildProgress) -> None:
    """Measure the quality, and write the model card."""
    classifier = load_classifier(classifier_run(settings.work, 0))
    figures = measure(
        settings.output,
        classifier,
        settings.work,
        settings.sizes,
        settings.workers,
        settings.device,
        progress,
    )
    write_card(settings.output, figures)


STAGES: Final = {  # the stages of a build from scratch, in order
    "vae": stage_vae,
    "decoder": stage_decoder,
    "latents": stage_latents,
    "denoiser": stage_denoiser,
    "save": stage_save,
    "classifier": stage_classifier,
    "dino": stage_dino,
    "clip": stage_clip,
    "examples": stage_examples,
    "quality": stage_quality,
}
OTHER_STAGES: Final = {"adopt": stage_adopt}


def _mixed(settings: BuildSettings, progress: BuildProgress) -> list[Drawn]:
    """Return common pictures and pictures of random characters, for networks trained on both."""
    return [
        load_drawn(settings.work, "common", settings.common, progress),
        load_drawn(settings.work, "characters", settings.characters, progress),
    ]
