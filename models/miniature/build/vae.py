"""Trains the autoencoder: 128-pixel pictures to 16x16 latents with four channels, as in SDXL.

Latents must above all represent colours, but the encoder alone learns colours slowly. During the
first part of the run, a linear layer, the guide, therefore predicts the mean colour of each 8x8
patch from its latent. The weight of its loss decreases to zero, and the guide is not saved with the
model.

An anchor, the autoencoder of an earlier build, keeps the latents near those that its UNet knows, so
that the UNet needs only further training and not a new one.

The loss compares pixels and, because edges make a drawing crisp, the differences of neighbouring
pixels. The last part of the training is of the decoder alone, with a critic (critic.py).

Training uses random 64-pixel crops with one offset for each batch: twelve crops cost as much as
three pictures. A convolutional VAE without attention works the same at both sizes.
"""

from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from .critic import Critic, balance
from .data import Drawn
from .progress import BuildProgress
from .team import Team
from .trainer import Run, load_average, train

BATCH: Final[int] = 12
CROP: Final[int] = 64
LEARNING_RATE: Final[float] = 1.5e-3
KL_WEIGHT: Final[float] = 1e-6
GUIDE_UNTIL: Final[float] = 0.7  # fraction of the run in which the guide has a weight
ANCHOR_WEIGHT: Final[float] = 0.05
EDGE_WEIGHT: Final[float] = 1.0
CRITIC_WEIGHT: Final[float] = 0.1  # gradient of the critic relative to that of the pixels


def new_vae() -> AutoencoderKL:
    """Return a small untrained autoencoder like the one of SDXL.

    The autoencoder has no attention in the middle, because it is trained on crops.
    """
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 128, 192),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,  # sixteen channels in a group, because flat colours fade with few
        sample_size=128,
        mid_block_add_attention=False,
    )


def as_input(pictures: torch.Tensor) -> torch.Tensor:
    """Convert uint8 [count, 3, height, width] to float in [-1, 1], channels last."""
    return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def vae_run(work: Path, steps: int) -> Run:
    """Return the settings for training the autoencoder, with the state in `work`."""
    return Run("vae", work / "vae.pt", steps, LEARNING_RATE, 1e-4, decay=0.998, seed=1)


def train_vae(
    team: Team,
    drawn: list[Drawn],
    run: Run,
    device: torch.device,
    progress: BuildProgress,
    anchor: AutoencoderKL | None = None,
) -> AutoencoderKL:
    """Train the autoencoder, or resume from its state; return it with averaged weights."""
    torch.manual_seed(0)
    vae = new_vae().to(device, memory_format=torch.channels_last)
    guide = nn.Conv2d(4, 3, 1).to(device)
    if anchor is not None:
        anchor.to(device, memory_format=torch.channels_last).requires_grad_(False)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        pixels = _crops(drawn, BATCH // team.size, generator).to(device)
        posterior = vae.encode(pixels).latent_dist
        error = pixel_error(vae.decode(posterior.sample(generator)).sample, pixels)
        error = error + KL_WEIGHT * posterior.kl().mean()
        if anchor is not None:
            with torch.no_grad():
                known = anchor.encode(pixels).latent_dist.mean
            return error + ANCHOR_WEIGHT * F.mse_loss(posterior.mean.float(), known.float())
        guided = F.mse_loss(guide(posterior.mean).float(), F.avg_pool2d(pixels, 8))
        return error + max(0.0, 1 - step / (GUIDE_UNTIL * run.steps)) * guided

    train(run, {"vae": vae, "guide": guide}, loss, team, progress)
    return vae.eval()


def pixel_error(restored: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Return the mean error of the pixels and of their differences to their neighbours."""
    restored = restored.float()
    error = 0.5 * F.l1_loss(restored, pixels) + 2 * F.mse_loss(restored, pixels)
    for axis in (2, 3):
        error = error + EDGE_WEIGHT * F.l1_loss(restored.diff(dim=axis), pixels.diff(dim=axis))
    return error


def decoder_run(work: Path, steps: int) -> Run:
    """Return the settings for training the decoder alone, with the state in `work`."""
    return Run("decoder", work / "decoder.pt", steps, 5e-4, 1e-4, decay=0.998, seed=4)


def train_decoder(
    team: Team,
    vae: AutoencoderKL,
    drawn: list[Drawn],
    run: Run,
    device: torch.device,
    progress: BuildProgress,
) -> None:
    """Train the decoder alone; the latents do not change, so the UNet stays valid.

    A critic that learns to distinguish the restored pictures from the drawn ones adds its loss, as
    in the training of SDXL's autoencoder (Esser et al. 2021).
    """
    torch.manual_seed(4)
    vae.requires_grad_(False).to(device, memory_format=torch.channels_last)
    parts = _decoding_parts(vae)
    for part in parts.values():
        part.requires_grad_(True)
    critic = Critic().to(device)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        pixels = _crops(drawn, BATCH // team.size, generator).to(device)
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample(generator)
        restored = vae.decode(latents).sample.float()
        error = pixel_error(restored, pixels)
        judged = critic.frozen(restored)
        weight = CRITIC_WEIGHT * balance(error, -judged.mean(), restored)
        return error - weight * judged.mean() + critic.loss(pixels, restored.detach())

    train(run, parts | {"critic": critic}, loss, team, progress)


def load_vae(work: Path) -> AutoencoderKL:
    """Load the autoencoder with averaged weights, and the further trained decoder if there is one.

    Raises StateError if the autoencoder has no state.
    """
    vae = new_vae()
    load_average(vae_run(work, 0).state, {"vae": vae, "guide": nn.Conv2d(4, 3, 1)})
    decoder = decoder_run(work, 0).state
    if decoder.exists():
        load_average(decoder, _decoding_parts(vae) | {"critic": Critic()})
    return vae.eval()


def _decoding_parts(vae: AutoencoderKL) -> dict[str, nn.Module]:
    return {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}


def _crops(drawn: list[Drawn], count: int, generator: torch.Generator) -> torch.Tensor:
    """Return a batch of crops from all sources, in proportion to their sizes.

    Half of the batches are mirrored.
    """
    sizes = [len(source) for source in drawn]
    rows = torch.randint(sum(sizes), (count,), generator=generator)
    left, top, mirrored = torch.randint(0, 65, (3,), generator=generator).tolist()
    crops = []
    for row in rows.tolist():
        source = 0
        while row >= sizes[source]:
            row, source = row - sizes[source], source + 1
        crops.append(drawn[source].pictures[row, :, top : top + CROP, left : left + CROP])
    batch = torch.stack(crops)
    return as_input(batch.flip(-1) if mirrored % 2 else batch)


@torch.no_grad()
def fidelity(
    vae: AutoencoderKL, pictures: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return PSNR in dB and edge sharpness, float [count] each, of reconstructions.

    Reconstructions are from the mean of the posterior; `pictures` are uint8 [count, 3, height,
    width]. The sharpness is the gradient energy of a reconstruction, divided by the picture's.
    """
    values, edges = [], []
    for batch in pictures.split(50):
        pixels = as_input(batch).to(device)
        restored = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        error = (((restored - pixels) / 2) ** 2).mean((1, 2, 3))
        values.append(-10 * torch.log10(error).cpu())
        edges.append((gradient_energy(restored) / gradient_energy(pixels)).cpu())
    return torch.cat(values), torch.cat(edges)


def gradient_energy(pixels: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference of neighbouring pixels, float [count]."""
    return sum((pixels.diff(dim=axis) ** 2).mean((1, 2, 3)) for axis in (2, 3))  # type: ignore[return-value]
