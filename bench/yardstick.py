"""Measures a checkpoint of any trainer: the error on pictures that no trainer has used."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipelines.dataset import Fitted, open_picture, square
from pipelines.train.draws import generator
from pipelines.train.latents import encode
from pipelines.train.objective import Objective
from services.engine import Engine, EngineSettings, ImageRequest
from services.engine.base import Base
from services.engine.text import encode_prompts

UNUSED = 1_000_000  # above the seeds of the class pictures of all trainers
LEVELS = 20  # noise levels, evenly spaced
NOISES = 2  # noise samples for each picture and level


@dataclass(frozen=True)
class YardstickSpec:
    """The prompts and the resolution that all trainers use."""

    prompt: str
    class_prompt: str
    resolution: int  # pixels


@dataclass(frozen=True)
class _EncodedPicture:
    """An encoded picture with its embedded prompt."""

    latent: Tensor  # [4, h, w]
    time_ids: Tensor
    hidden: Tensor
    pooled: Tensor


class Yardstick:
    """Measures the error on held-back pictures, at fixed noise levels with fixed noise.

    Half of the pictures show the subject and half its class, as in the training objective. With
    subject pictures only, a trainer could appear faster because it forgets the class.
    """

    def __init__(self, base: Base, held_back: Sequence[Path], spec: YardstickSpec) -> None:
        self.base = base
        self.objective = Objective.of(base.scheduler_config, base.device)
        subject = [square(open_picture(path), spec.resolution) for path in held_back]
        class_pictures = _class_pictures(base, spec, len(subject))
        self.halves = (
            self._encoded(subject, spec.prompt),
            self._encoded(class_pictures, spec.class_prompt),
        )

    def _encoded(self, pictures: Sequence[Fitted], prompt: str) -> list[_EncodedPicture]:
        (hidden, pooled), names = encode_prompts(self.base, [prompt]), [prompt] * len(pictures)
        latents = encode(self.base.vae, pictures, names)
        return [_EncodedPicture(latent.mean, latent.time_ids, hidden, pooled) for latent in latents]

    @torch.no_grad()
    def loss(self, weights: dict[str, Tensor]) -> float:
        """Return the mean squared error of the base with these factors merged into it.

        `weights` are A and B by canonical key, with alpha = rank; empty for the base itself.
        """
        unet = copy.deepcopy(self.base.unet)
        for name, down in weights.items():
            if name.endswith(".lora_A.weight"):
                module = name.removesuffix(".lora_A.weight")
                linear = unet.get_submodule(module.removeprefix("unet."))
                linear.weight += weights[f"{module}.lora_B.weight"] @ down
        errors = [
            self._error(unet, picture, generator(0, "yardstick", half, place, number))
            for half, pictures in enumerate(self.halves)
            for place, picture in enumerate(pictures)
            for number in range(NOISES)
        ]
        return float(sum(errors) / len(errors))

    def _error(self, unet: Any, picture: _EncodedPicture, source: torch.Generator) -> float:
        levels = torch.linspace(0, self.objective.timesteps - 1, LEVELS).long()
        noise = torch.randn((LEVELS, *picture.latent.shape), generator=source)
        clean = picture.latent.expand_as(noise)
        prediction = unet(
            self.objective.noised(clean, noise, levels),
            levels,
            encoder_hidden_states=picture.hidden.expand(LEVELS, -1, -1),
            added_cond_kwargs={
                "text_embeds": picture.pooled.expand(LEVELS, -1),
                "time_ids": picture.time_ids.expand(LEVELS, -1),
            },
            return_dict=False,
        )[0]
        target = self.objective.target(clean, noise, levels)
        return float((prediction - target).square().mean())


def _class_pictures(base: Base, spec: YardstickSpec, count: int) -> list[Fitted]:
    """Generate pictures of the class with the base, from seeds that no trainer uses."""
    engine = Engine(base, EngineSettings(slots=1))
    requests = [
        ImageRequest(spec.class_prompt, seed=UNUSED + number, steps=25) for number in range(count)
    ]
    images = [Image.fromarray(result.images[0]) for result in engine.generate_many(requests)]
    engine.close()
    return [square(image, spec.resolution) for image in images]
