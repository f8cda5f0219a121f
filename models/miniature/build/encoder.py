"""The image encoder in DINO's place: it tells individuals apart by every visible attribute.

It is trained on families of characters that differ in one attribute and are shown in the same two
places. A convolutional network sees small parts, such as eyes, better than a ViT of the same size.
"""

from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import nn
from transformers import BitConfig, BitModel, ViTImageProcessor

from .data import FAMILY, Drawn
from .files import replacing
from .pipeline import declare_float32
from .progress import BuildProgress
from .team import Team
from .trainer import Run, train
from .views import altered_views, shrunk
from .world import VALUES, Scene, shown

SIDE: Final[int] = 96  # pixels to which the image processor scales pictures: enough for eyes
FAMILIES: Final[int] = 12  # families in a batch
TEMPERATURE: Final[float] = 0.05
SIMILARITY_WEIGHT: Final[float] = 10.0
ATTRIBUTE_WEIGHT: Final[float] = 0.3

# The cosine that a difference costs, by attribute; differences add up to at most 1. A part that is
# lost differs in the part and in its colour.
COSTS: Final[dict[str, float]] = {
    "kind": 0.5,
    "colour": 0.25,
    "accent": 0.1,
    "pattern": 0.1,
    "eyes": 0.08,
    "headgear": 0.1,
    "headgear_colour": 0.08,
    "neckwear": 0.08,
    "neckwear_colour": 0.08,
    "cape": 0.12,
    "held": 0.08,
    "held_colour": 0.08,
}


def new_encoder() -> BitModel:
    """Return an untrained residual network (BiT); its pooled features are the image feature."""
    return BitModel(
        BitConfig(
            embedding_size=32,
            hidden_sizes=[96, 192, 288, 384],
            depths=[1, 1, 2, 1],
            layer_type="preactivation",
            num_groups=8,
        )
    ).to(memory_format=torch.channels_last)


def encoder_modules(encoder: BitModel) -> dict[str, nn.Module]:
    """Return the encoder and new linear heads for the attributes, which are only for training."""
    heads = nn.Linear(encoder.config.hidden_sizes[-1], sum(map(len, VALUES.values())))
    return {"dino": encoder, "heads": heads.to(encoder.device)}


def encoder_run(work: Path, steps: int) -> Run:
    """Return the settings for training the image encoder, with the state in `work`."""
    return Run("dino", work / "dino.pt", steps, 2e-3, 0.05, decay=0.99, seed=8)


def train_encoder(
    team: Team, families: Drawn, run: Run, device: torch.device, progress: BuildProgress
) -> BitModel:
    """Train the image encoder, or resume from its state; return it with averaged weights.

    Three losses: InfoNCE (van den Oord et al. 2018) among all pictures of the batch, most of which
    are hard negatives; the squared error of cosines against `COSTS`, so that the features are
    graded; and classification of each attribute by linear heads that are not saved.
    """
    torch.manual_seed(8)
    modules = encoder_modules(new_encoder().to(device))
    model, heads = modules["dino"], modules["heads"]
    truth = encoded(families.scenes)
    pictures = shrunk(families.pictures, SIDE)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randperm(len(families) // FAMILY, generator=generator)
        chosen = chosen[: FAMILIES // team.size]
        rows = (chosen[:, None] * FAMILY + torch.arange(FAMILY)).flatten()
        views = altered_views(pictures[rows], generator).to(device)
        pooled = model(pixel_values=views).pooler_output.flatten(1)
        features = F.normalize(pooled.float(), dim=-1)
        values = truth[rows].to(device)
        similar = SIMILARITY_WEIGHT * similarity_loss(features, values)
        named = ATTRIBUTE_WEIGHT * attribute_loss(heads(pooled).float(), values)
        return individual_loss(features) + similar + named

    train(run, modules, loss, team, progress)
    return model.eval()


def encoded(scenes: tuple[Scene, ...] | list[Scene]) -> torch.Tensor:
    """Return the index of each visible value, int64 [scenes, attributes], in order of `VALUES`."""
    return torch.tensor(
        [
            [values.index(seen[name]) for name, values in VALUES.items()]
            for seen in (shown(scene.subject) for scene in scenes)
        ]
    )


def individual_loss(features: torch.Tensor) -> torch.Tensor:
    """Return InfoNCE for features [batch, size] in which rows 2i and 2i + 1 are one individual."""
    count = len(features)
    logits = features @ features.T / TEMPERATURE
    logits = logits.masked_fill(torch.eye(count, dtype=torch.bool, device=logits.device), -1e4)
    return F.cross_entropy(logits, torch.arange(count, device=logits.device) ^ 1)


def similarity_loss(features: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the error of the cosines, for pairs within families and for other pairs.

    `values` are those of `encoded`, for whole families.
    """
    costs = torch.tensor([COSTS[name] for name in VALUES], device=features.device)
    differ = (values[:, None] != values[None]).float()
    wanted = (1 - differ @ costs).clamp(min=0)
    error = (features @ features.T - wanted).square()
    family = torch.arange(len(features), device=features.device) // FAMILY
    within = family[:, None] == family
    return error[within].mean() + error[~within].mean()


def attribute_loss(logits: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy summed over attributes, for logits [batch, all values]."""
    parts = logits.split([len(names) for names in VALUES.values()], dim=1)
    losses = [F.cross_entropy(part, values[:, i]) for i, part in enumerate(parts)]
    return torch.stack(losses).sum()


def save_encoder(model: BitModel, folder: Path) -> None:
    """Save the encoder in fp16 for `AutoModel` and `AutoImageProcessor`, like DINO's ResNet.

    The weights in memory are rounded.
    """
    images = ViTImageProcessor(
        size={"height": SIDE, "width": SIDE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    with replacing(folder) as aside:
        model.half().save_pretrained(aside)
        images.save_pretrained(aside)
        declare_float32(aside)
    model.float()
