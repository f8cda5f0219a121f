"""The stages of the build. Each uses the files of the earlier ones and resumes its own work."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from torch import nn
from transformers import BitModel

from .attributes import attribute_table, measure_attributes
from .card import write_card
from .data import Drawn, load_drawn
from .diffusion import Denoiser, denoiser_run, new_denoiser, train_denoiser
from .encoder import encoder_modules, encoder_run, save_encoder, train_encoder
from .examples import write_example, write_look_alikes
from .judges import clip_run, save_clip, train_clip
from .latents import encode_pictures, load_latents, scaling_factor
from .oracle import load_oracle, oracle_run, save_oracle, train_oracle
from .pipeline import assemble, save_pipeline
from .progress import BuildProgress
from .quality import Sizes, measure
from .steps import record_steps, recorded_steps
from .team import Team, run_team
from .text import MiniatureTextEncoders, settled_tokenizers
from .trainer import adopt, load_average, steps_of
from .vae import decoder_run, load_vae, new_vae, train_decoder, train_vae, vae_run
from .views import restore_part
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
    oracle_steps: int
    clip_steps: int
    dino_steps: int
    common: int = 24_000  # common pictures for the VAE, the oracle and CLIP
    characters: int = 48_000  # pictures of random characters
    families: int = 60_000  # pictures of families of characters, for the image encoder
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


def stage_oracle(settings: BuildSettings, progress: BuildProgress) -> None:
    """Train the oracle, which names the attributes of a picture, and save it."""
    _labelled(settings, progress)  # draws the pictures once, before the workers start
    run_team(_oracle_member, settings.workers, settings)


def _oracle_member(team: Team, settings: BuildSettings) -> None:
    progress = BuildProgress(quiet=not team.leads)
    run = oracle_run(settings.work, settings.oracle_steps)
    drawn = _labelled(settings, progress)
    oracle = train_oracle(team, drawn, run, settings.device, progress)
    if team.leads:
        save_oracle(oracle, settings.output / "oracle")
        record_steps(settings.output, oracle=steps_of(run.state))


def _labelled(settings: BuildSettings, progress: BuildProgress) -> list[Drawn]:
    common, characters = _mixed(settings, progress)
    return [common, _restored(settings, characters, 0.1, "characters", progress)]


def stage_dino(settings: BuildSettings, progress: BuildProgress) -> None:
    """Train the DINO scorer, which distinguishes individuals, and save it."""
    _families(settings, progress)  # draws the pictures once, before the workers start
    run_team(_dino_member, settings.workers, settings)


def _dino_member(team: Team, settings: BuildSettings) -> None:
    progress = BuildProgress(quiet=not team.leads)
    run = encoder_run(settings.work, settings.dino_steps)
    drawn = _families(settings, progress)
    encoder = train_encoder(team, drawn, run, settings.device, progress)
    if team.leads:
        save_encoder(encoder, settings.scorers / "dino")
        record_steps(settings.output, dino=steps_of(run.state))


def _families(settings: BuildSettings, progress: BuildProgress) -> Drawn:
    drawn = load_drawn(settings.work, "families", settings.families, progress)
    return _restored(settings, drawn, 0.1, "families", progress)


def stage_clip(settings: BuildSettings, progress: BuildProgress) -> None:
    """Train the CLIP scorer, and save it."""
    drawn = _mixed(settings, progress)
    tokenizer = settled_tokenizers(settings.work)[0]
    run = clip_run(settings.work, settings.clip_steps)
    clip = train_clip(drawn, tokenizer, run, settings.device, progress)
    save_clip(clip, tokenizer, settings.scorers / "clip")
    record_steps(settings.output, clip=steps_of(run.state))


def stage_adopt(settings: BuildSettings, progress: BuildProgress) -> None:
    """Create the training states from the saved weights, if the work folder is lost."""
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
    if (settings.scorers / "dino").is_dir():
        encoder = BitModel.from_pretrained(settings.scorers / "dino")
        adopt(encoder_run(settings.work, 0).state, encoder_modules(encoder), steps.get("dino", 0))
    pipeline.tokenizer.save_pretrained(settings.work / "tokenizer")
    pipeline.tokenizer_2.save_pretrained(settings.work / "tokenizer_2")
    factor = settings.work / "scaling_factor.txt"
    factor.write_text(repr(pipeline.vae.config.scaling_factor))
    progress.say(
        f"created the state from {settings.output}, at step {steps['denoiser']} of the denoiser"
    )


def stage_examples(settings: BuildSettings, progress: BuildProgress) -> None:
    """Draw the example pictures of the demo's character, and its look-alikes."""
    folder = settings.output.resolve().parents[1] / "examples" / "thor-cat"
    write_example(folder / "images")
    write_look_alikes(folder / "look-alikes")
    progress.say(f"drew {folder}")


def stage_quality(settings: BuildSettings, progress: BuildProgress) -> None:
    """Measure the quality, and write the model card."""
    figures = measure(
        settings.output,
        load_oracle(settings.output / "oracle"),
        settings.work,
        settings.sizes,
        settings.workers,
        settings.device,
        progress,
    )
    write_card(settings.output, figures)


def stage_attributes(settings: BuildSettings, progress: BuildProgress) -> None:
    """Measure the image encoder and the oracle only, and print the figures."""
    vae = AutoencoderKL.from_pretrained(settings.output / "vae", use_safetensors=True).eval()
    figures = measure_attributes(
        settings.output,
        load_oracle(settings.output / "oracle").to(settings.device),
        vae.to(settings.device),
        settings.work,
        settings.sizes.attributes,
        settings.device,
        progress,
    )
    progress.say(attribute_table(figures))
    progress.say(json.dumps(asdict(figures), indent=2))


STAGES: Final = {  # the stages of a build from scratch, in order
    "vae": stage_vae,
    "decoder": stage_decoder,
    "latents": stage_latents,
    "denoiser": stage_denoiser,
    "save": stage_save,
    "oracle": stage_oracle,
    "dino": stage_dino,
    "clip": stage_clip,
    "examples": stage_examples,
    "quality": stage_quality,
}
OTHER_STAGES: Final = {"adopt": stage_adopt, "attributes": stage_attributes}


def _mixed(settings: BuildSettings, progress: BuildProgress) -> list[Drawn]:
    """Return common pictures and pictures of random characters, for networks trained on both."""
    return [
        load_drawn(settings.work, "common", settings.common, progress),
        load_drawn(settings.work, "characters", settings.characters, progress),
    ]


def _restored(
    settings: BuildSettings, drawn: Drawn, share: float, name: str, progress: BuildProgress
) -> Drawn:
    """Return the pictures, a share of which has passed through the saved VAE."""
    return restore_part(drawn, share, settings.output / "vae", settings.work, name, progress)
