"""The miniature's last stages on untrained weights and few pictures: adopt, save, measure."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
import torch

from atelier.files import sha256_file
from models.miniature.build.attributes import AttributeSizes
from models.miniature.build.data import load_drawn, shard_scenes
from models.miniature.build.diffusion import new_denoiser
from models.miniature.build.encoder import new_encoder, save_encoder
from models.miniature.build.judges import new_clip, save_clip
from models.miniature.build.oracle import classify, load_oracle
from models.miniature.build.pipeline import assemble, save_pipeline
from models.miniature.build.progress import BuildProgress
from models.miniature.build.quality import CHANCE, Sizes, agreement
from models.miniature.build.sampling import ImageSampling, generate
from models.miniature.build.stages import (
    BuildSettings,
    stage_adopt,
    stage_dino,
    stage_oracle,
    stage_quality,
    stage_save,
)
from models.miniature.build.steps import record_steps, recorded_steps
from models.miniature.build.text import new_tokenizers
from models.miniature.build.vae import new_vae
from models.miniature.build.world import ATTRIBUTES, draw

CPU = torch.device("cpu")
QUIET = BuildProgress(quiet=True)
STEPS = {"vae": 30, "decoder": 5, "denoiser": 70, "clip": 2}
TRAINED = {"oracle": 40, "dino": 2}
DRAWN = {
    "common": 240,
    "characters": 80,
    "families": 120,
    "triplets": 40,
    "inspected": 20,
    "held-out": 80,
    "strangers": 24,
}  # the first of a shard of 500


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuildSettings]:
    """A build that has lost its work folder: only the saved parts are left."""
    folder = tmp_path_factory.mktemp("miniature")
    made = BuildSettings(
        work=folder / "work",
        output=folder / "model",
        workers=1,
        pictures=500,
        vae_steps=0,
        decoder_steps=0,
        denoiser_steps=0,
        oracle_steps=TRAINED["oracle"],
        clip_steps=0,
        dino_steps=TRAINED["dino"],
        common=DRAWN["common"],
        characters=DRAWN["characters"],
        families=DRAWN["families"],
        sizes=Sizes(
            12,
            4,
            DRAWN["held-out"],
            8,
            6,
            ImageSampling(steps=2),
            AttributeSizes(DRAWN["triplets"], 20, 20, 4),
        ),
    )
    for source, count in DRAWN.items():
        draw_few(made.work / "drawn", source, count)
    tokenizers = new_tokenizers()
    torch.manual_seed(0)
    save_pipeline(assemble(new_vae(), new_denoiser(tokenizers[0]), tokenizers), made.output)
    save_clip(new_clip(tokenizers[0]), tokenizers[0], made.scorers / "clip")
    save_encoder(new_encoder(), made.scorers / "dino")
    record_steps(made.output, **STEPS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two that meet after every operation are slow on a busy machine
    yield made
    torch.set_num_threads(threads)


def draw_few(folder: Path, source: str, count: int) -> None:
    """Put a short shard where the build looks before it draws a whole one."""
    rng = Random(f"{source} 0 poses")
    scenes = shard_scenes(source, 0)[:count]
    pictures = [np.asarray(draw(scene.subject, scene.place, rng)) for scene in scenes]
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{source}-0000.npy", np.stack(pictures).transpose(0, 3, 1, 2))


@pytest.fixture(scope="module")
def measured(settings: BuildSettings) -> dict[str, Any]:
    """The stages in order, and the figures that they end with."""
    before = weights(settings.output)
    stage_adopt(settings, QUIET)
    rmtree(settings.output / "unet")
    stage_save(settings, QUIET)
    assert weights(settings.output) == before
    stage_oracle(settings, QUIET)
    stage_dino(settings, QUIET)
    stage_quality(settings, QUIET)
    return json.loads((settings.output / "quality.json").read_text())


def weights(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256_file(p) for p in folder.rglob("*.safetensors")}


def test_adopted_weights_are_saved_as_they_were_with_their_steps(
    settings: BuildSettings, measured: dict[str, Any]
) -> None:
    assert recorded_steps(settings.output) == STEPS | TRAINED
    assert measured["steps"] == STEPS | TRAINED


def test_the_oracle_knows_drawn_pictures_of_combinations_it_never_saw(
    settings: BuildSettings, measured: dict[str, Any]
) -> None:
    """Forty steps teach it the places; the real one takes more and learns all."""
    assert measured["oracle"]["place"] > 0.8
    drawn = load_drawn(settings.work, "held-out", DRAWN["held-out"], QUIET)
    judge = load_oracle(settings.output / "oracle")
    own, shuffled = agreement(classify(judge, drawn.pictures, CPU), drawn.scenes)
    assert own == measured["oracle"]
    assert shuffled["place"] == pytest.approx(CHANCE["place"], abs=0.05)


def test_the_figures_tell_every_attribute_that_scorer_and_oracle_see(
    measured: dict[str, Any],
) -> None:
    seen = measured["attributes"]
    assert set(seen["oracle"]) == set(seen["oracle_restored"]) == {*ATTRIBUTES, "place"}
    assert set(seen["triplets"]) == set(ATTRIBUTES)
    assert len(seen["graded"]) == 5
    assert min(seen["triplets"].values()) < 0.99  # two steps teach nothing


def test_what_was_never_trained_is_at_chance_and_the_card_says_so(
    settings: BuildSettings, measured: dict[str, Any]
) -> None:
    captions = measured["captions"]
    assert captions["chance"] == CHANCE
    for name in ("kind", "colour", "place"):
        assert captions["random"][name] < 0.5
        assert captions["shuffled"][name] == pytest.approx(CHANCE[name], abs=0.15)
    assert measured["psnr"]["held-out"] < 20
    card = (settings.output / "README.md").read_text()
    assert "$" not in card
    assert card.count("**not yet met**") >= 5
    assert "12 random captions, 2 DPM++ steps" in " ".join(card.split())
    for name in ("contact-sheet", "reconstructions", "characters"):
        assert f"pictures/{name}.png" in card
        assert (settings.output / "pictures" / f"{name}.png").stat().st_size > 1000


def test_two_workers_make_the_pictures_of_one(settings: BuildSettings) -> None:
    prompts = [f"a red cat {number}" for number in range(21)]
    one, two = (generate(settings.output, prompts, ImageSampling(1), n, CPU) for n in (1, 2))
    assert one.shape == (21, 3, 128, 128)
    assert (one.int() - two.int()).abs().max() <= 1
