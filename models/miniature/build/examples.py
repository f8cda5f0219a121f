"""Draws the example pictures for an adapter: one character in five of the eight places."""

import json
from pathlib import Path
from random import Random
from typing import Final

from .world import PHRASES, THOR_CAT, Character, draw

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
