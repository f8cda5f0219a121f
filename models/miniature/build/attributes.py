"""Measures the image encoder and the oracle by attribute, on drawings and after the VAE."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from .data import Drawn, load_drawn
from .oracle import LABELS, Oracle, classify
from .progress import BuildProgress
from .triplets import (
    change_cosines,
    encoder_features,
    graded_cosines,
    thor_cat_cosines,
    triplet_shares,
)
from .views import restored
from .world import Scene, shown

Shares = dict[str, float]


@dataclass(frozen=True)
class AttributeFigures:
    """Shares between 0 and 1, and cosines, by attribute; `restored` is after the VAE."""

    triplets: Shares  # right triplets of the image encoder
    triplets_restored: Shares
    cosines: Shares  # mean, to a character with this attribute changed, and to the `same`
    graded: list[float]  # mean cosine to a character with 0, 1, ... attributes changed
    thor_cat: Shares  # mean cosine of the demo's character to itself and to changed ones
    oracle: Shares  # right values of the oracle
    oracle_restored: Shares


@dataclass(frozen=True)
class AttributeSizes:
    """The numbers of pictures to measure."""

    triplets: int = 4_500  # at least 200 negatives for each attribute
    triplets_restored: int = 1_000
    labelled: int = 500  # characters, and as many common subjects
    labelled_restored: int = 250


def measure_attributes(
    folder: Path,
    oracle: Oracle,
    vae: AutoencoderKL,
    work: Path,
    sizes: AttributeSizes,
    device: torch.device,
    progress: BuildProgress,
) -> AttributeFigures:
    """Measure the encoder in `folder`/scorers/dino and the oracle, on pictures they never saw."""
    groups = load_drawn(work, "triplets", sizes.triplets, progress)
    labelled = [
        load_drawn(work, source, sizes.labelled, progress) for source in ("inspected", "held-out")
    ]
    encoder = folder / "scorers" / "dino"
    features = encoder_features(encoder, groups.pictures, device)
    soft_groups = _restored(vae, groups, sizes.triplets_restored)
    soft_labelled = [_restored(vae, one, sizes.labelled_restored) for one in labelled]
    soft = encoder_features(encoder, soft_groups.pictures, device)
    return AttributeFigures(
        triplets=triplet_shares(features, groups.scenes),
        triplets_restored=triplet_shares(soft, soft_groups.scenes),
        cosines=change_cosines(features, groups.scenes),
        graded=graded_cosines(encoder, device),
        thor_cat=thor_cat_cosines(encoder, device),
        oracle=oracle_shares(oracle, labelled, device),
        oracle_restored=oracle_shares(oracle, soft_labelled, device),
    )


def oracle_shares(oracle: Oracle, drawn: Sequence[Drawn], device: torch.device) -> Shares:
    """Return the share of pictures whose value the oracle names, by label."""
    pictures = torch.cat([source.pictures for source in drawn])
    truth = [_labelled(scene) for source in drawn for scene in source.scenes]
    predicted = classify(oracle, pictures, device)
    return {
        name: float(np.mean([a == b[name] for a, b in zip(predicted[name], truth, strict=True)]))
        for name in LABELS
    }


def attribute_table(figures: AttributeFigures) -> str:
    """Return a Markdown table with a row for each label."""
    columns = {
        "triplets right": figures.triplets,
        "after the VAE": figures.triplets_restored,
        "oracle right": figures.oracle,
        "oracle after the VAE": figures.oracle_restored,
    }
    head = ["attribute", *columns, "cosine when changed"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for name in LABELS:
        cells = [f"{shares[name]:.1%}" if name in shares else "" for shares in columns.values()]
        cosine = f"{figures.cosines[name]:.2f}" if name in figures.cosines else ""
        lines.append(f"| {' | '.join([name.replace('_', ' '), *cells, cosine])} |")
    return "\n".join(lines)


def _labelled(scene: Scene) -> dict[str, str]:
    return shown(scene.subject) | {"place": scene.place}


def _restored(vae: AutoencoderKL, drawn: Drawn, count: int) -> Drawn:
    """Return the first pictures after encoding and decoding."""
    batches = [restored(vae, batch) for batch in drawn.pictures[:count].split(50)]
    return Drawn(torch.cat(batches), drawn.scenes[:count])
