"""The committed miniature is what its card says, loads as any SDXL does, and is served as it is."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModel, CLIPModel, CLIPProcessor

from atelier.adapter.package import Package
from atelier.stores.base_files import base_digest
from models.miniature.build.data import GROUP, character_scenes, triplet_scenes
from models.miniature.build.oracle import ASPECTS, LABELS, classify, labels, load_oracle
from models.miniature.build.triplets import triplet_shares
from models.miniature.build.world import ATTRIBUTES, PLACES, THOR_CAT, Scene, draw
from pipelines.evaluate.scorers import Scorers
from services.engine import AdapterUse, Engine, EngineSettings, ImageRequest
from tests.tiny import tiny_adapter

BASE = Path("models/miniature")
PROMPT, SEED, STEPS, GUIDANCE = "a photo of a red cat on the beach", 7, 8, 5.0
TOLERANCE = 2  # of 255

measured = pytest.mark.skipif(
    not (BASE / "quality.json").exists(),
    reason="models/miniature is not measured: its training is not over (make miniature)",
)


undertrained = pytest.mark.xfail(
    strict=True,
    reason="the weights need more steps and characters: models.miniature.build oracle dino",
)


def test_all_weights_are_half_precision_and_small() -> None:
    files = sorted(BASE.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) < 64_000_000
    for file in files:
        with safe_open(file, "pt") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, file


@measured
def test_the_card_speaks_of_these_weights_and_they_keep_its_promises() -> None:
    figures = json.loads((BASE / "quality.json").read_text())
    assert figures["base"] == base_digest(BASE), "measure them: models.miniature.build quality"
    assert figures["sizes"]["captions"] >= 200
    for aspect in ASPECTS:
        assert figures["captions"]["random"][aspect] >= 0.9, aspect
        assert abs(figures["captions"]["shuffled"][aspect] - 1 / len(ASPECTS[aspect])) < 0.02
    assert figures["psnr"]["held-out"] >= 32.0
    assert figures["sharpness"]["held-out"] >= 0.88


def test_the_scorers_load_as_any_do() -> None:
    picture = torch.zeros(3, 128, 128, dtype=torch.uint8)
    clip = CLIPModel.from_pretrained(BASE / "scorers/clip")
    words = CLIPProcessor.from_pretrained(BASE / "scorers/clip")
    asked = words(text=["a cat", "a car"], images=picture, return_tensors="pt", padding=True)
    assert clip(**asked).logits_per_image.shape == (1, 2)
    dino = AutoModel.from_pretrained(BASE / "scorers/dino")
    pixels = AutoImageProcessor.from_pretrained(BASE / "scorers/dino")
    output = dino(**pixels(picture, return_tensors="pt"))
    assert output.last_hidden_state.ndim == 4  # a convolutional network: the pooled features count
    assert output.pooler_output.flatten(1).shape == (1, dino.config.hidden_sizes[-1])


@pytest.fixture(scope="module")
def scorers() -> Scorers:
    return Scorers({"clip": str(BASE / "scorers/clip"), "dino": str(BASE / "scorers/dino")})


def drawings(scenes: list[Scene], rng: Random) -> list[Image.Image]:
    return [draw(scene.subject, scene.place, rng) for scene in scenes]


def test_the_image_scorer_sees_one_changed_attribute(scorers: Scorers) -> None:
    """New characters; an encoder without hard negatives is right for 81 % of these triplets."""
    scenes = list(islice(triplet_scenes(Random("weights")), 18 * GROUP))
    features = scorers.dino(drawings(scenes, Random("weights")))
    right = triplet_shares(features, scenes)
    assert set(right) == set(ATTRIBUTES)
    assert np.mean(list(right.values())) >= 0.97
    assert min(right.values()) >= 0.9, right  # 24 triplets or more of each


@undertrained
def test_the_demos_character_drawn_as_a_rabbit_is_another(scorers: Scorers) -> None:
    rabbit = replace(THOR_CAT, kind="rabbit")
    scenes = [Scene(subject, place) for subject in (THOR_CAT, rabbit) for place in PLACES]
    cats, rabbits = np.split(scorers.dino(drawings(scenes, Random("thor-cat"))), 2)
    elsewhere = ~np.eye(len(PLACES), dtype=bool)
    assert (cats @ rabbits.T)[elsewhere].mean() < 0.6
    assert (cats @ cats.T)[elsewhere].mean() > 0.85


def test_the_oracle_names_what_characters_wear() -> None:
    scenes = list(islice(character_scenes(Random("oracle")), 100))
    shown = [np.asarray(picture) for picture in drawings(scenes, Random("oracle"))]
    pictures = torch.from_numpy(np.stack(shown).transpose(0, 3, 1, 2))
    predicted = classify(load_oracle(BASE / "oracle"), pictures, torch.device("cpu"))
    for name, truth in labels(scenes).items():
        expected = [LABELS[name][index] for index in truth.tolist()]
        assert np.mean([a == b for a, b in zip(predicted[name], expected, strict=True)]) >= 0.95


def test_the_engine_draws_what_diffusers_draws(tmp_path: Path) -> None:
    folder = tiny_adapter(BASE, tmp_path / "adapter", name="other", rank=8, alpha=4.0, scale=1.0)
    pipeline = StableDiffusionXLPipeline.from_pretrained(BASE)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(folder, weight_name="adapter.safetensors", adapter_name="other")
    engine = Engine.load(BASE, settings=EngineSettings(slots=2, max_rank=8))
    engine.adapters.add(Package.open(folder), 1)
    pictures = []
    for adapters in ((), (AdapterUse("other", 1),)):
        pipeline.enable_lora() if adapters else pipeline.disable_lora()
        oracle = pipeline(
            PROMPT,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(SEED),
        ).images[0]
        request = ImageRequest(
            PROMPT, seed=SEED, steps=STEPS, guidance_scale=GUIDANCE, adapters=adapters
        )
        drawn = engine.generate(request).images[0].astype(int)
        assert np.abs(drawn - np.asarray(oracle)).max() <= TOLERANCE
        pictures.append(drawn)
    engine.close()
    assert np.abs(pictures[0] - pictures[1]).mean() > 5  # of 255: the adapter is plainly there
