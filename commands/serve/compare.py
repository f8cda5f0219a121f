"""`atelier compare`: two adapters and the base with the same seeds, side by side."""

from pathlib import Path
from typing import Annotated

import typer

from atelier.home import Home
from commands.verb import Answer


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
    from commands.adapter_references import AdapterReference, resolve
    from commands.terminal import hide_library_bars
    from pipelines.evaluate.side_by_side import PROMPTS, SEEDS, draw_side_by_side, labels, sheet
    from services.engine.local import local_engine

    home = Home.find()
    first, second = (resolve(AdapterReference.parse(text), home) for text in (a, b))
    hide_library_bars()
    with local_engine([first, second], base) as engine:
        rows = draw_side_by_side(
            engine,
            prompts=prompt or PROMPTS,
            seeds=seed or SEEDS,
            steps=steps,
            guidance_scale=guidance_scale,
        )
    columns = ["base", *labels(first, second)]
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows, columns).save(out)
    differences = [row.mean_difference for row in rows]
    text = (
        f"{out}: {len(rows)} rows of {' | '.join(columns)}; "
        f"{differences.count(0)} of {len(rows)} pairs identical, "
        f"mean difference {sum(differences) / len(rows):.1f} of 255"
    )
    data = {
        "file": str(out),
        "columns": columns,
        "rows": [
            {"prompt": row.prompt, "seed": row.seed, "mean_difference": row.mean_difference}
            for row in rows
        ],
    }
    return Answer(text, data)
