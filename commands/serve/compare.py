"""`atelier compare`: compare training runs on one page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from atelier.errors import BadInput
from atelier.home import Home
from commands.command import Answer

if TYPE_CHECKING:
    from pipelines.compare.comparison import RunComparison
    from pipelines.compare.runs import RunRecord

MOST: Final = 6  # runs that fit on one page


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Two to six runs: the folder of a run or package, or NAME[@VERSION].",
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="Prompt of the pictures; repeatable. {trigger} is replaced by the trigger words "
            "of each adapter."
        ),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed; repeatable.")] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 30,
    guidance_scale: Annotated[
        float, typer.Option(help="Guidance scale; 1 disables guidance.")
    ] = 5.0,
    base: Annotated[
        str | None, typer.Option(help="Base model. Default: the base of each run.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Policy of the scores; runs without an evaluation under it are evaluated now. "
            "Default: the newest policy under which all runs were evaluated.",
        ),
    ] = None,
    scatter: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The compare.json of earlier repeats: the scatter between trainings, if these "
            "runs have no repeats.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the page, the sheet and the numbers.")
    ] = Path("compare"),
) -> Answer:
    """Compare runs on one page: recipes, curves, pictures and scores.

    Runs of one recipe with different training seeds are repeats. If there are repeats, the
    intervals include the scatter between trainings.
    """
    from atelier.data.policy import Policy

    if not 2 <= len(runs) <= MOST:
        raise BadInput(f"compare: {len(runs)} runs given; give two to {MOST}")
    operators_policy = Policy.load(policy) if policy else None

    # imported after the validation of the input, because the imports are slow
    from commands.terminal import hide_library_bars, progress
    from pipelines.compare.comparison import common_evaluations, compare_runs
    from pipelines.compare.inputs import evaluated, known_scatter
    from pipelines.compare.page import write
    from pipelines.compare.runs import labelled
    from pipelines.compare.side_by_side import PROMPTS, SEEDS, PictureSettings, draw

    home = Home.find()
    records = labelled(_record(text, home) for text in runs)
    hide_library_bars()
    if operators_policy is not None:
        with progress() as report:
            records = evaluated(records, operators_policy, home, output, base=base, progress=report)
    evaluations = common_evaluations(records, operators_policy.digest if operators_policy else None)
    known, sources = known_scatter(records, evaluations, home, scatter) if evaluations else ({}, [])
    finished = [(run.label, run.adapter) for run in records if run.adapter]
    settings = PictureSettings(prompt or PROMPTS, seed or SEEDS, steps, guidance_scale)
    sheet = draw(finished, settings, base) if finished else None
    comparison = compare_runs(
        records, sheet=sheet, evaluations=evaluations, known=known, sources=sources
    )
    write(comparison, output)
    return _answer(comparison, output)


def _record(text: str, home: Home) -> "RunRecord":
    """Return the run of a folder, or of a name and version in the registry."""
    from atelier.stores.registry import Registry
    from commands.adapter_references import AdapterReference, resolve
    from pipelines.compare.runs import registered_run, run_in_folder
    from pipelines.train.tracking.tracker import ABOUT

    reference = AdapterReference.parse(text)
    if reference.name is None or (Path(text) / ABOUT).is_file():
        return run_in_folder(reference.path or Path(text))
    adapter = resolve(reference, home)
    registry = Registry(home.tracking_uri)
    info = registry.version(reference.name, adapter.version or "")
    return registered_run(registry, home, info)


def _answer(comparison: "RunComparison", output: Path) -> Answer:
    from pipelines.compare.page import NUMBERS, PAGE, SHEET, numbers

    files = [PAGE, NUMBERS, *([SHEET] if comparison.sheet else [])]
    lines = [comparison.conclusion.sentence, *(f"- {remark}" for remark in comparison.remarks)]
    lines.append(f"{output}: {', '.join(files)}")
    return Answer("\n".join(lines), {"folder": str(output), **numbers(comparison)})
