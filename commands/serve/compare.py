"""`atelier compare`: two adapters and the base with the same seeds, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from atelier.home import Home
from commands.verb import Answer

if TYPE_CHECKING:
    import numpy as np

    from commands.adapter_references import ResolvedAdapter
    from commands.serve.local_engine import LocalEngine
    from services.engine import ImageRequest

PROMPTS = ("a photo of {trigger}", "a photo of {trigger} in the snow")
SEEDS = (0, 1)


class Cell(NamedTuple):
    """One prompt and seed, drawn by the base, by A and by B."""

    prompt: str
    seed: int
    pictures: "tuple[np.ndarray, ...]"  # uint8 [height, width, 3]


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="NAME[@VERSION] or a folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="NAME[@VERSION] or a folder.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Prompt; repeatable. {trigger} stands for each adapter's trigger."),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed; repeatable.")] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 30,
    guidance_scale: Annotated[float, typer.Option(help="Guidance scale; 1 is no guidance.")] = 5.0,
    base: Annotated[str | None, typer.Option(help="Base model. Default: the base of A.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="Output file.")] = Path(
        "compare.png"
    ),
) -> Answer:
    """Draw the same seeds with two adapters and with the base, on one sheet."""
    from PIL import Image

    from commands.adapter_references import AdapterReference, find
    from commands.serve.grid import GridRow, grid
    from commands.serve.local_engine import local_engine

    home = Home.find()
    found = [find(AdapterReference.parse(text), home) for text in (a, b)]
    asked = [(one, number) for one in prompt or PROMPTS for number in seed or SEEDS]
    with local_engine(found, base) as running:
        cells = _draw(running, asked, steps, guidance_scale)
    rows = [
        GridRow(one.prompt, f"seed {one.seed}", [Image.fromarray(p) for p in one.pictures])
        for one in cells
    ]
    names = ["base", *_labels(found)]
    sheet = grid(names, rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return _answer(out, names, cells)


def _draw(
    running: "LocalEngine", asked: Sequence[tuple[str, int]], steps: int, guidance_scale: float
) -> list[Cell]:
    from services.engine import ImageRequest

    def request(template: str, seed: int, place: int | None) -> "ImageRequest":
        trigger = running.found[place or 0].package.manifest.trigger
        return ImageRequest(
            prompt=template.replace("{trigger}", trigger),
            adapters=() if place is None else (running.use(place),),
            seed=seed,
            steps=steps,
            guidance_scale=guidance_scale,
        )

    places = (None, 0, 1)
    requests = [request(template, seed, place) for template, seed in asked for place in places]
    results = running.engine.generate_many(requests)
    return [
        Cell(
            requests[number * len(places)].prompt,
            seed,
            tuple(one.images[0] for one in results[number * len(places) :][: len(places)]),
        )
        for number, (_, seed) in enumerate(asked)
    ]


def _labels(found: "Sequence[ResolvedAdapter]") -> list[str]:
    labels = [one.label for one in found]
    if labels[0] != labels[1]:
        return labels
    return [f"{letter}: {label}" for letter, label in zip("AB", labels, strict=True)]


def _answer(out: Path, names: Sequence[str], cells: Sequence[Cell]) -> Answer:
    import numpy as np

    rows: list[dict[str, Any]] = []
    for one in cells:
        _, first, second = (picture.astype(np.int16) for picture in one.pictures)
        apart = float(np.abs(first - second).mean())
        rows.append({"prompt": one.prompt, "seed": one.seed, "mean_difference": apart})
    same = sum(row["mean_difference"] == 0 for row in rows)
    mean = sum(row["mean_difference"] for row in rows) / len(rows)
    text = (
        f"{out}: {len(rows)} rows of {' | '.join(names)}; "
        f"{same} of {len(rows)} pairs identical, mean difference {mean:.1f} of 255"
    )
    return Answer(text, {"file": str(out), "columns": list(names), "rows": rows})
