"""The oracle: names every visible attribute of a picture's subject, and its place.

It measures the quality of the pipeline, and labels pictures of adapters when the limits of the
verdict are calibrated. It is trained on drawn pictures only, on other ones than the image encoder.
The scorers that judge adapters must not use it.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from .data import Drawn
from .files import StateError, replacing
from .progress import BuildProgress
from .team import Team
from .trainer import Run, train
from .vae import as_input
from .views import altered_views, shrunk
from .world import PLACES, VALUES, Scene, shown

LABELS: Final[dict[str, tuple[str, ...]]] = VALUES | {"place": tuple(PLACES)}
# Captions name these three; the figures of generated pictures are about them.
ASPECTS: Final[dict[str, tuple[str, ...]]] = {
    name: LABELS[name] for name in ("kind", "colour", "place")
}
SIDE: Final[int] = 64  # pixels to which pictures are scaled: enough for eyes
BATCH: Final[int] = 64
SHARES: Final[tuple[int, int]] = (1, 3)  # quarters of a batch: common pictures, characters
LEARNING_RATE: Final[float] = 2e-3
_FILE: Final[str] = "oracle.safetensors"
_LABELS: Final[str] = "labels"  # the key of the labels in the file's metadata


class Oracle(nn.Module):
    """A convolutional network with one classification head for each label."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 192)
        blocks: list[nn.Module] = [nn.Conv2d(3, widths[0], 5, 2, 2)]
        for before, after in pairwise(widths):
            blocks += [nn.Conv2d(before, after, 3, 2, 1), _Block(after)]
        norm = nn.GroupNorm(8, widths[-1])
        self.body = nn.Sequential(*blocks, norm, nn.ReLU(), nn.Flatten(), nn.Dropout(0.2))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(widths[-1] * 16, len(values)) for name, values in LABELS.items()}
        )

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return logits [batch, values] by label, for pixels [batch, 3, SIDE, SIDE] in [-1, 1]."""
        features = self.body(pixels)
        return {name: head(features) for name, head in self.heads.items()}


class _Block(nn.Module):
    """A residual block of two convolutions that keep the number of channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.GroupNorm(8, width), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels + self.layers(pixels)


def labels(scenes: tuple[Scene, ...] | list[Scene]) -> dict[str, torch.Tensor]:
    """Return the correct class of each scene, int64 [count], by label."""
    seen = [shown(scene.subject) | {"place": scene.place} for scene in scenes]
    return {
        name: torch.tensor([values.index(one[name]) for one in seen])
        for name, values in LABELS.items()
    }


def oracle_run(work: Path, steps: int) -> Run:
    """Return the settings for training the oracle, with the state in `work`."""
    return Run("oracle", work / "oracle.pt", steps, LEARNING_RATE, 0.05, decay=0.99, seed=5)


def train_oracle(
    team: Team, drawn: list[Drawn], run: Run, device: torch.device, progress: BuildProgress
) -> Oracle:
    """Train the oracle, or resume from its state; return it with averaged weights.

    `drawn` are common pictures and pictures of characters, in this order.
    """
    torch.manual_seed(5)
    model = Oracle().to(device)
    pictures = [shrunk(source.pictures, SIDE) for source in drawn]
    truth = [labels(source.scenes) for source in drawn]

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = [
            torch.randint(len(source), (BATCH * share // (4 * team.size),), generator=generator)
            for source, share in zip(drawn, SHARES, strict=True)
        ]
        chosen = torch.cat([p[r] for p, r in zip(pictures, rows, strict=True)])
        logits = model(altered_views(chosen, generator).to(device))
        losses = []
        for name in LABELS:
            values = torch.cat([t[name][r] for t, r in zip(truth, rows, strict=True)])
            losses.append(F.cross_entropy(logits[name].float(), values.to(device)))
        return torch.stack(losses).sum()

    train(run, {"oracle": model}, loss, team, progress)
    return model.eval()


def save_oracle(model: Oracle, folder: Path) -> None:
    """Save the oracle in fp16, with its labels in the metadata."""
    weights = {name: weight.half().contiguous() for name, weight in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / _FILE) as aside:
        save_file(weights, aside, {_LABELS: json.dumps(LABELS)})


def load_oracle(folder: Path) -> Oracle:
    """Load the oracle from its folder (`models/miniature/oracle`).

    Raises StateError if it is missing, or if its labels are not those of the drawn world.
    """
    path = folder / _FILE
    if not path.exists():
        raise StateError(f"{path}: the oracle is missing; run the stage oracle")
    with safe_open(path, "pt") as file:
        known = json.loads((file.metadata() or {}).get(_LABELS, "{}"))
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    if known != {name: list(values) for name, values in LABELS.items()}:
        raise StateError(f"{path}: its labels are not those of the world; run the stage oracle")
    model = Oracle()
    model.load_state_dict(weights)
    return model.eval()


@torch.no_grad()
def classify(model: Oracle, pictures: torch.Tensor, device: torch.device) -> dict[str, list[str]]:
    """Return the predicted value of every label for uint8 pictures [count, 3, 128, 128]."""
    predicted: dict[str, list[str]] = {name: [] for name in LABELS}
    for batch in shrunk(pictures, SIDE).split(100):
        for name, logits in model(as_input(batch).to(device)).items():
            predicted[name] += [LABELS[name][index] for index in logits.argmax(1).tolist()]
    return predicted
