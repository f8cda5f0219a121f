"""Train the UNet and the two text encoders together on cached latents.

The loss is epsilon prediction with min-SNR weights (Hang et al. 2023); the saved weights are
averaged. Caption drop-out replaces the embeddings by zeros, because with
`force_zeros_for_empty_prompt` the pipeline uses zeros if there is no negative prompt.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTokenizer

from .latents import WORDINGS, Latents
from .progress import BuildProgress
from .team import Team
from .text import MiniatureTextEncoders, new_text_encoders
from .trainer import Run, train
from .world import SIZE

BATCH: Final[int] = 16
LEARNING_RATE: Final[float] = 1.2e-3
SNR_GAMMA: Final[float] = 5.0
DROP_CAPTION: Final[float] = 0.1


@dataclass
class Denoiser:
    """The UNet and the text encoders, which are trained together."""

    unet: UNet2DConditionModel
    text: MiniatureTextEncoders

    def modules(self) -> dict[str, torch.nn.Module]:
        """Return the networks by the names of their folders in a pipeline."""
        return {
            "unet": self.unet,
            "text_encoder": self.text.first,
            "text_encoder_2": self.text.second,
        }

    def to(self, device: torch.device) -> "Denoiser":
        """Move the networks to a device, the UNet in channels-last format."""
        self.unet.to(device, memory_format=torch.channels_last)
        self.text.first.to(device)
        self.text.second.to(device)
        return self


def new_unet() -> UNet2DConditionModel:
    """Return an untrained UNet with the structure of SDXL's UNet.

    The outer blocks have no attention, and the embedding includes text and sizes.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 1),
        attention_head_dim=(2, 4, 6),  # the number of heads, as in SDXL's config
        use_linear_projection=True,
        cross_attention_dim=160,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=96 + 6 * 8,
        norm_num_groups=16,
    )


def new_denoiser(tokenizer: CLIPTokenizer) -> Denoiser:
    """Return an untrained UNet and untrained text encoders, from a fixed seed."""
    torch.manual_seed(2)
    return Denoiser(new_unet(), new_text_encoders(tokenizer))


def noise_schedule() -> DDPMScheduler:
    """Return a scheduler with the betas of SDXL."""
    return DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    )


def denoiser_run(work: Path, steps: int) -> Run:
    """Return the settings for training the denoiser, with the state in `work`."""
    return Run("denoiser", work / "denoiser.pt", steps, LEARNING_RATE, seed=3)


def train_denoiser(
    team: Team,
    model: Denoiser,
    latents: Latents,
    run: Run,
    device: torch.device,
    progress: BuildProgress,
) -> None:
    """Train `model` for the steps of the run, from the last checkpoint, and average its weights."""
    model.to(device)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        batch = _draw_batch(latents, BATCH // team.size, generator)
        return _loss(model, batch, device)

    train(run, model.modules(), loss, team, progress)


_SCHEDULE: Final[DDPMScheduler] = noise_schedule()
_SIZES: Final[torch.Tensor] = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]], dtype=torch.float32)


@dataclass(frozen=True)
class _Batch:
    noisy: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    ids: torch.Tensor
    ids_2: torch.Tensor
    kept: torch.Tensor  # float [batch], 0 if the caption is dropped


def _draw_batch(latents: Latents, count: int, generator: torch.Generator) -> _Batch:
    rows = torch.randint(len(latents.mean), (count,), generator=generator)
    wording = torch.randint(WORDINGS, (count,), generator=generator)
    shape = (2, count, *latents.mean.shape[1:])
    fresh, noise = torch.randn(shape, generator=generator)
    # Stratified timesteps give the same mean with less variance.
    positions = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    timesteps = (positions * 1000).long().clamp(max=999)
    clean = latents.mean[rows] + latents.deviation[rows] * fresh
    return _Batch(
        noisy=_SCHEDULE.add_noise(clean, noise, timesteps),
        noise=noise,
        timesteps=timesteps,
        ids=latents.ids[rows, wording],
        ids_2=latents.ids_2[rows, wording],
        kept=(torch.rand(count, generator=generator) >= DROP_CAPTION).float(),
    )


def _loss(model: Denoiser, batch: _Batch, device: torch.device) -> torch.Tensor:
    states, pooled = model.text(batch.ids.to(device), batch.ids_2.to(device))
    kept = batch.kept.to(device)
    predicted = model.unet(
        batch.noisy.to(device),
        batch.timesteps.to(device),
        encoder_hidden_states=states * kept[:, None, None],
        added_cond_kwargs={
            "text_embeds": pooled * kept[:, None],
            "time_ids": _SIZES.repeat(len(kept), 1).to(device),
        },
    ).sample
    error = F.mse_loss(predicted, batch.noise.to(device), reduction="none").mean((1, 2, 3))
    return (error * _snr_weight(batch.timesteps).to(device)).mean()


def _snr_weight(timesteps: torch.Tensor) -> torch.Tensor:
    """Return min(SNR, gamma) / SNR, the loss weights [batch] for epsilon prediction."""
    alpha = _SCHEDULE.alphas_cumprod[timesteps]
    snr = alpha / (1 - alpha)
    return snr.clamp(max=SNR_GAMMA) / snr
