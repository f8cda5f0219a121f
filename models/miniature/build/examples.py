"""Draws the example pictures for an adapter: one character in five places, and its look-alikes."""

import json
from pathlib import Path
from random import Random
from typing import Final

from .world import PHRASES, PLACES, THOR_CAT, Character, altered, changeable, draw

# Forest, snow and space are omitted, to test whether the adapter generalises to these places.
SHOWN: Final[tuple[str, ...]] = (
    "beach",
    "room",
    "desert",
    "city",
    "sea",
    "beach",
    "room",
    "desert",
)


def write_example(folder: Path, subject: Character = THOR_CAT, seed: int = 5) -> None:
    """Write eight pictures of the subject, and `metadata.jsonl` with a caption for each.

    The format is that of Hugging Face's image folders.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = Random(seed), []
    for number, place in enumerate(SHOWN, start=1):
        name = f"{number:02d}-{place}.png"
        draw(subject, place, rng).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": PHRASES[place]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def write_look_alikes(folder: Path, subject: Character = THOR_CAT, seed: int = 5) -> None:
    """Write a picture of every character that differs from the subject in one visible attribute."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = Random(seed)
    for attribute in changeable(subject):
        other, place = altered(subject, attribute, rng), rng.choice(list(PLACES))
        draw(other, place, rng).save(folder / f"other-{attribute.replace('_', '-')}.png")
