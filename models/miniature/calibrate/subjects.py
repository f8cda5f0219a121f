"""The subjects of the calibration, and the folders of their training pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from models.miniature.build.world import PHRASES, PLACES, WEARERS, Character, character, draw

PICTURES: Final = 8
# The places of the training pictures. The policy asks for other ones.
SHOWN: Final = ("room", "desert", "sea", "space")
_SEEDS: Final = range(5000, 100_000, 37)


@dataclass(frozen=True)
class Subject:
    """A character, and the name of its group."""

    seed: int
    character: Character

    @property
    def kind(self) -> str:
        """The class of the subject."""
        return self.character.kind

    @property
    def name(self) -> str:
        """The group of its adapters, for example `rabbit-5037`."""
        return f"{self.kind}-{self.seed}"


def subjects(count: int) -> list[Subject]:
    """Return `count` different characters, with every kind equally often."""
    return [
        Subject(seed, character(seed, WEARERS[number % len(WEARERS)]))
        for number, seed in zip(range(count), _SEEDS, strict=False)
    ]


def write_pictures(
    folder: Path, characters: Sequence[Character], places: Sequence[str], seed: int
) -> None:
    """Draw PICTURES pictures with captions that name the place; characters and places rotate.

    A folder that exists is kept, because the pictures depend only on the arguments.
    """
    if (folder / "metadata.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = Random(seed), []
    for index in range(PICTURES):
        place = places[index % len(places)]
        picture = draw(characters[index % len(characters)], place, rng)
        picture.save(folder / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "text": PHRASES[place]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


assert set(SHOWN) <= set(PLACES)
