"""Labels an adapter with the oracle, which reads the attributes of the drawn world in its pictures.

The oracle is not a scorer of the policy: it knows the subject's attributes, the class and the
place that each prompt names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from PIL import Image

from models.miniature.build.oracle import Oracle, classify
from models.miniature.build.world import NONE, PHRASES, Character, shown
from pipelines.evaluate import Evaluation
from pipelines.evaluate.calibration import Label
from pipelines.evaluate.evaluation import Measured

from .kinds import Kind
from .subjects import Subject

# An adapter is good if every rate is at least this, and bad if one is below the other. Between the
# two, people would disagree.
GOOD: Final[Mapping[str, float]] = {
    "subject": 0.80,
    "kind": 0.90,
    "place": 0.90,
    "class_kept": 0.85,
    "unrelated_kept": 0.85,
}
BAD: Final[Mapping[str, float]] = {
    "subject": 0.60,
    "kind": 0.60,
    "place": 0.60,
    "class_kept": 0.55,
    "unrelated_kept": 0.55,
}
SHOWS_SUBJECT: Final = 0.75  # share of the subject's attributes in a picture that shows it

Reading = Mapping[str, str]  # the value of every label of the oracle


@dataclass(frozen=True)
class Rates:
    """The rates that the label depends on, each from 0 to 1."""

    subject: float  # of the subject's own attributes, over the pictures of the subject
    kind: float  # of pictures of the subject that show its kind
    place: float  # of pictures of the subject in the place of their prompt
    class_kept: float  # of pictures of the class that show the kind, and not the subject
    unrelated_kept: float  # of attributes of unrelated pictures that are as in the base's


def rates(evaluation: Evaluation, folder: Path, character: Character, oracle: Oracle) -> Rates:
    """Return the rates over all pictures of an evaluation in `folder`."""
    found = picture_rates(evaluation, folder, character, oracle)
    names = [field.name for field in fields(Rates)]
    return Rates(
        **{name: _mean([values[name] for _, values in found if name in values]) for name in names}
    )


def picture_rates(
    evaluation: Evaluation, folder: Path, character: Character, oracle: Oracle
) -> list[tuple[Measured, dict[str, float]]]:
    """Return each picture with its share of every rate that applies to its role."""
    pictures = evaluation.measures.pictures
    own = {
        name: value for name, value in shown(character).items() if value != NONE and name != "kind"
    }
    on = _read(folder, [picture.picture for picture in pictures], oracle)
    unrelated = [picture for picture in pictures if picture.role == "unrelated"]
    off = iter(_read(folder, [picture.base_picture for picture in unrelated], oracle))
    found = []
    for picture, seen in zip(pictures, on, strict=True):
        is_kind = seen["kind"] == character.kind
        if picture.role == "subject":
            place = float(seen["place"] == _place(picture))
            values = {"subject": _share(seen, own), "kind": float(is_kind), "place": place}
        elif picture.role == "class":
            values = {"class_kept": float(is_kind and _share(seen, own) < SHOWS_SUBJECT)}
        else:
            base = next(off)
            expected = {name: base[name] for name in ("kind", "colour", "place")}
            values = {"unrelated_kept": _share(seen, expected)}
        found.append((picture, values))
    return found


def label(found: Rates, subject: Subject, kind: Kind) -> Label:
    """Return the label of an adapter of this kind."""
    values = asdict(found)
    worst = min(values, key=lambda name: values[name] - GOOD[name])
    says: Literal["good", "bad", "unclear"] = "unclear"
    if all(values[name] >= GOOD[name] for name in values):
        says = "good"
    elif any(values[name] < BAD[name] for name in values):
        says = "bad"
    why = ", ".join(f"{name} {value:.2f}" for name, value in values.items())
    causes = () if says == "good" else kind.causes
    return Label(
        group=subject.name, kind=kind.name, label=says, causes=causes, why=f"{worst} ({why})"
    )


def _place(picture: Measured) -> str | None:
    return next((p for p, phrase in PHRASES.items() if phrase in picture.prompt), None)


def _share(reading: Reading, expected: Reading) -> float:
    return _mean([reading[name] == value for name, value in expected.items()])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 1.0


def _read(folder: Path, files: Sequence[str], oracle: Oracle) -> list[Reading]:
    if not files:
        return []
    images = [np.asarray(Image.open(folder / file).convert("RGB")) for file in files]
    pixels = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())
    labels = classify(oracle, pixels, torch.device("cpu"))
    return [{name: labels[name][row] for name in labels} for row in range(len(files))]
