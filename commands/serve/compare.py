"""`atelier compare`: compare two adapters and the base on the same seeds."""

from pathlib import Path
from typing import Annotated

import typer

from atelier.home import Home
from commands.command import Answer


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="First adapter: NAME[@VERSION] or FOLDER.")],
    b: Annotated[
        str, typer.Argument(metavar="B", help="Second adapter: NAME[@VERSION] or FOLDER.")
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="Prompt; repeatable. {trigger} is replaced by the trigger words of each adapter."
        ),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed; repeatable.")] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 30,
    guidance_scale: Annotated[
        float, typer.Option(help="Guidance scale; 1 disables guidance.")
    ] = 5.0,
    base: Annotated[str | None, typer.Option(help="Base model. Default: the base of A.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="Contact sheet to write.")] = Path(
        "compare.png"
    ),
) -> Answer:
    """Compare two adapters and the base on the same seeds.

    Writes a contact sheet with one row for each prompt and seed.
    """
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
