"""How good a checkpoint is, whoever trained it: its error on pictures that no trainer has seen."""

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

UNUSED = 1_000_000  # a seed beyond those of all trainers' class pictures
LEVELS = 20  # noise levels, evenly spread
NOISES = 2  # noises a picture and level


@dataclass(frozen=True)
class Occasion:
    """What all trainers were asked for."""

    prompt: str
    class_prompt: str
    resolution: int  # pixels


@dataclass(frozen=True)
class _Shown:
    """A held-back picture and the words it is shown with."""

    latent: Tensor  # [4, h, w]
    time_ids: Tensor
    hidden: Tensor
    pooled: Tensor


class BenchSubject:
    """The error on pictures that no trainer has seen, at fixed levels with fixed noise.

    Half of it is the subject's, half the class's, as in the objective that both train on: who
    forgets the class is not the faster one.
    """

    def __init__(self, base: Base, held: Sequence[Path], occasion: Occasion) -> None:
        self.base = base
        self.objective = Objective.of(base.scheduler_config, base.device)
        subject = [square(open_picture(path), occasion.resolution) for path in held]
        kind = _class_pictures(base, occasion, len(subject))
        self.halves = (
            self._shown(subject, occasion.prompt),
            self._shown(kind, occasion.class_prompt),
        )

    def _shown(self, pictures: Sequence[Fitted], prompt: str) -> list[_Shown]:
        (hidden, pooled), names = encode_prompts(self.base, [prompt]), [prompt] * len(pictures)
        latents = encode(self.base.vae, pictures, names)
        return [_Shown(one.mean, one.time_ids, hidden, pooled) for one in latents]

    @torch.no_grad()
    def loss(self, weights: dict[str, Tensor]) -> float:
        """The mean squared error of the base with these factors merged in."""
        unet = copy.deepcopy(self.base.unet)
        for name, down in weights.items():
            if name.endswith(".lora_A.weight"):
                module = name.removesuffix(".lora_A.weight")
                linear = unet.get_submodule(module.removeprefix("unet."))
                linear.weight += weights[f"{module}.lora_B.weight"] @ down
        errors = [
            self._error(unet, shown, generator(0, "yardstick", half, place, number))
            for half, pictures in enumerate(self.halves)
            for place, shown in enumerate(pictures)
            for number in range(NOISES)
        ]
        return float(sum(errors) / len(errors))

    def _error(self, unet: Any, shown: _Shown, source: torch.Generator) -> float:
        levels = torch.linspace(0, self.objective.timesteps - 1, LEVELS).long()
        noise = torch.randn((LEVELS, *shown.latent.shape), generator=source)
        clean = shown.latent.expand_as(noise)
        answer = unet(
            self.objective.noised(clean, noise, levels),
            levels,
            encoder_hidden_states=shown.hidden.expand(LEVELS, -1, -1),
            added_cond_kwargs={
                "text_embeds": shown.pooled.expand(LEVELS, -1),
                "time_ids": shown.time_ids.expand(LEVELS, -1),
            },
            return_dict=False,
        )[0]
        target = self.objective.target(clean, noise, levels)
        return float((answer - target).square().mean())


def _class_pictures(base: Base, occasion: Occasion, count: int) -> list[Fitted]:
    """Others of the class, by the base itself, from seeds that no trainer uses."""
    engine = Engine(base, EngineSettings(slots=1))
    requests = [
        ImageRequest(occasion.class_prompt, seed=UNUSED + number, steps=25)
        for number in range(count)
    ]
    drawn = [Image.fromarray(one.images[0]) for one in engine.generate_many(requests)]
    engine.close()
    return [square(picture, occasion.resolution) for picture in drawn]
