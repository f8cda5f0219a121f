"""The classifier behind the quality figures: kind, colour and place of a picture.

It is trained on drawn pictures only, independently of the pipeline that it measures.
"""

from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import nn

from .data import Drawn
from .progress import BuildProgress
from .team import Team
from .trainer import Run, load_average, train
from .vae import as_input
from .world import COLOURS, FIGURES, PLACES, Scene

ASPECTS: Final[dict[str, tuple[str, ...]]] = {
    "kind": tuple(FIGURES),
    "colour": tuple(COLOURS),
    "place": tuple(PLACES),
}
BATCH: Final[int] = 64
LEARNING_RATE: Final[float] = 3e-3


class Classifier(nn.Module):
    """A convolutional network with one classification head for each aspect."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 96, 128)
        blocks: list[nn.Module] = []
        for before, after in pairwise(widths):
            blocks += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.ReLU()]
        self.body = nn.Sequential(*blocks, nn.Flatten(), nn.Dropout(0.2))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(128 * 16, len(values)) for name, values in ASPECTS.items()}
        )

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return logits [batch, values] by aspect, for pixels [batch, 3, 128, 128] in [-1, 1]."""
        features = self.body(pixels)
        return {name: head(features) for name, head in self.heads.items()}


def labels(scenes: tuple[Scene, ...] | list[Scene]) -> dict[str, torch.Tensor]:
    """Return the correct class of each scene, int64 [count], by aspect."""
    columns = zip(*(scene.combination for scene in scenes), strict=True)
    return {
        name: torch.tensor([values.index(value) for value in column])
        for (name, values), column in zip(ASPECTS.items(), columns, strict=True)
    }


def classifier_run(work: Path, steps: int) -> Run:
    """Return the settings for training the classifier, with the state in `work`."""
    return Run("classifier", work / "classifier.pt", steps, LEARNING_RATE, decay=0.98, seed=5)


def train_classifier(
    drawn: Drawn, run: Run, device: torch.device, progress: BuildProgress
) -> Classifier:
    """Train the classifier, or resume from its state; return it with averaged weights."""
    torch.manual_seed(5)
    model = Classifier().to(device)
    truth = labels(drawn.scenes)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(drawn), (BATCH,), generator=generator)
        pixels = roughen(as_input(drawn.pictures[rows]), generator).to(device)
        logits = model(pixels)
        losses = [F.cross_entropy(logits[name], truth[name][rows].to(device)) for name in ASPECTS]
        return torch.stack(losses).sum()

    train(run, {"classifier": model}, loss, Team(), progress)
    return model.eval()


def load_classifier(run: Run) -> Classifier:
    """Load the averaged weights from the state of a run. Raises StateError if it is missing."""
    model = Classifier()
    load_average(run.state, {"classifier": model})
    return model.eval()


def roughen(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add noise to pixels [batch, 3, height, width], and blur half of the batches.

    Generated pictures have noise and blur, drawn pictures do not. Without both, the classifier
    could rely on the exact edges of drawn pictures.
    """
    if torch.rand((), generator=generator) < 0.5:
        pixels = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    noise = torch.randn(pixels.shape, generator=generator)
    return pixels + 0.06 * noise


@torch.no_grad()
def classify(
    model: Classifier, pictures: torch.Tensor, device: torch.device
) -> dict[str, list[str]]:
    """Return the predicted value of every aspect for uint8 pictures [count, 3, 128, 128]."""
    predicted: dict[str, list[str]] = {name: [] for name in ASPECTS}
    for batch in pictures.split(100):
        for name, logits in model(as_input(batch).to(device)).items():
            predicted[name] += [ASPECTS[name][index] for index in logits.argmax(1).tolist()]
    return predicted
