"""The pictures an adapter starts from: one character in a few places, the rest never shown."""

import json
from pathlib import Path
from random import Random
from typing import Final

from .world import PHRASES, THOR_CAT, Character, draw

# Five places of eight; forest, snow and space are left for the adapter to imagine.
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
    """Write pictures and a `metadata.jsonl` with a caption for each, as an image folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = Random(seed), []
    for number, place in enumerate(SHOWN, start=1):
        name = f"{number:02d}-{place}.png"
        draw(subject, place, rng).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": PHRASES[place]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
