"""DreamBooth with LoRA (Ruiz et al. 2023): train a rare word to denote the subject.

If the recipe has a prior, each batch of subject pictures is accompanied by an equal number of class
pictures, which the base generated. The class pictures preserve the class: without them, every cat
would become the trained cat.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atelier.adapter.low_rank import LoraWeights
from pipelines.train import trainable_lora
from pipelines.train.draws import Draws
from pipelines.train.methods.method import Loss
from pipelines.train.objective import Objective
from pipelines.train.samples import SampleRow, Samples, StageInputs
from services.engine.banked import share
from services.engine.text import dropped, encode, tokenize

ENCODERS = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class EmbeddedPrompts:
    """`hidden` [prompts, tokens, width of both encoders] and `pooled` [prompts, width]."""

    hidden: Tensor
    pooled: Tensor

    def rows(self, indices: Sequence[int]) -> "EmbeddedPrompts":
        """Return the prompts with these indices, in this order."""
        chosen = torch.tensor(indices, device=self.hidden.device)
        return EmbeddedPrompts(
            self.hidden.index_select(0, chosen), self.pooled.index_select(0, chosen)
        )


class DreamBooth:
    """Trains a LoRA on the UNet, and on the text encoders if they are targets of the recipe."""

    def __init__(self, material: StageInputs) -> None:
        base, self.stage = material.base, material.stage
        spec = self.stage.lora
        self.objective = Objective.of(base.scheduler_config, base.device)
        networks = {name: share(getattr(base, name)) for name in ("unet", *ENCODERS)}
        self.layers = trainable_lora.put_into(
            networks, spec.targets, spec.rank, spec.alpha, self.stage.train.seed
        )
        self.unet = networks["unet"]
        if self.stage.train.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
            self.unet.train()  # diffusers requires it for checkpointing; there is no dropout
        self.samples = Samples(material)
        self.encoders = [networks[name] for name in ENCODERS]
        tokenizers = (base.tokenizer, base.tokenizer_2)
        self.tokens = [tokenize(tokenizer, self.samples.prompts) for tokenizer in tokenizers]
        ends = {prompt: dropped(base.tokenizer, prompt)[1] for prompt in self.samples.prompts}
        self.remarks = [
            f"{prompt!r}: {end!r} is beyond 77 tokens and is ignored; shorten the prompt"
            for prompt, end in ends.items()
            if end
        ]
        self.embedded: EmbeddedPrompts | None = None
        if not set(spec.targets) & set(ENCODERS):
            with torch.no_grad():
                self.embedded = EmbeddedPrompts(*encode(self.encoders, self.tokens))
            self.encoders = []

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return A and B of every adapted projection, by canonical key."""
        return dict(trainable_lora.tensors_of(self.layers))

    def adapter(self) -> dict[str, LoraWeights]:
        """Return the current pairs, on the host, by canonical module name."""
        return trainable_lora.weights_of(self.layers)

    def loss(self, draws: Draws) -> Loss:
        """Return the min-SNR-weighted error on the subject plus the weighted error on its class."""
        batch = self.stage.train.batch * draws.ranks
        subject = self.samples.subject(draws, batch)
        prior = self.samples.prior(draws, batch)
        own = list(draws.share(batch))
        instances = len(own)
        own += [batch + row for row in own] if prior else []
        errors = self._errors([*subject, *prior], own, draws)
        total = instance = errors[:instances].mean()
        parts = {"instance": instance.detach()}
        if prior and self.stage.prior:
            prior_error = errors[instances:].mean()
            total = instance + self.stage.prior.weight * prior_error
            parts["prior"] = prior_error.detach()
        return Loss(total, parts)

    def _errors(self, rows: Sequence[SampleRow], own: Sequence[int], draws: Draws) -> Tensor:
        """Return the weighted squared errors [rows] of the rows with the indices `own`, in order.

        Rows of the same shape form one UNet call. Random numbers are drawn for all rows, so that
        they do not depend on the number of processes.
        """
        timesteps = self._timesteps(rows, draws)
        shapes: dict[torch.Size, list[int]] = {}
        for index, row in enumerate(rows):
            shapes.setdefault(row.latent.mean.shape, []).append(index)
        embedded = self._embed([rows[index].prompt for index in own])
        errors, order = [], []
        for members in shapes.values():
            places = [place for place, index in enumerate(own) if index in members]
            if places:
                chosen = [own[place] for place in places]
                drawn = self._drawn(rows, members, chosen, draws)
                group, levels = [rows[i] for i in chosen], timesteps[chosen]
                errors.append(self._group(group, drawn, levels, embedded.rows(places)))
                order += places
        if len(errors) == 1:
            return errors[0]
        return torch.cat(errors)[torch.tensor(order).argsort()]

    @staticmethod
    def _drawn(
        rows: Sequence[SampleRow], members: list[int], chosen: list[int], draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Return standard normal numbers for the posterior and the noise of the rows `chosen`.

        The numbers are drawn for all `members` of the group, which have the same shape.
        """
        shape = (len(members), *rows[members[0]].latent.mean.shape)
        kept = [members.index(index) for index in chosen]
        posterior = draws.normal(f"posterior {members[0]}", shape)[kept]
        return posterior, draws.normal(f"noise {members[0]}", shape)[kept]

    def _group(
        self,
        rows: Sequence[SampleRow],
        drawn: tuple[Tensor, Tensor],
        levels: Tensor,
        text: EmbeddedPrompts,
    ) -> Tensor:
        """Return the errors [rows] of latents of the same shape."""
        mean = torch.stack([row.latent.mean for row in rows])
        deviation = torch.stack([row.latent.deviation for row in rows])
        posterior, noise = (numbers.to(mean.device) for numbers in drawn)
        latents, dtype = mean + deviation * posterior, self.unet.dtype
        prediction = self.unet(
            self.objective.noised(latents, noise, levels).to(dtype),
            levels,
            encoder_hidden_states=text.hidden.to(dtype),
            added_cond_kwargs={
                "text_embeds": text.pooled.to(dtype),
                "time_ids": torch.stack([row.latent.time_ids for row in rows]).to(dtype),
            },
            return_dict=False,
        )[0]
        target = self.objective.target(latents, noise, levels)
        error = F.mse_loss(prediction.float(), target, reduction="none").mean(dim=(1, 2, 3))
        gamma = self.stage.train.snr_gamma
        return error if gamma is None else error * self.objective.min_snr(levels, gamma)

    def _timesteps(self, rows: Sequence[SampleRow], draws: Draws) -> Tensor:
        """Return timesteps [rows], stratified over the subject rows and over the class rows."""
        batch, levels = self.stage.train.batch * draws.ranks, self.objective.timesteps
        drawn = [draws.timesteps("subject levels", batch, levels)]
        if len(rows) > batch:
            drawn.append(draws.timesteps("class levels", batch, levels))
        return torch.cat(drawn).to(self.objective.alphas.device)

    def _embed(self, prompts: Sequence[int]) -> EmbeddedPrompts:
        """Return the embedded prompts with these indices.

        If the text encoders are trained, the prompts are encoded again.
        """
        if self.embedded is not None:
            return self.embedded.rows(prompts)
        distinct = sorted(set(prompts))
        fresh = EmbeddedPrompts(*encode(self.encoders, [ids[distinct] for ids in self.tokens]))
        return fresh.rows([distinct.index(prompt) for prompt in prompts])
