"""Write the output files of the demo: contact sheet, loss plot and report."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from commands.demo.clock import Clock
from commands.demo.images import ImageClient
from commands.demo.prompts import FRESH, SHEET, SeededPrompt
from commands.demo.report import DemoReport, SheetRow, VersionRow
from commands.demo.swap import Swap
from commands.demo.versions import RegisteredVersion, training_summary
from pipelines.dataset import open_folder
from pipelines.evaluate.grid import GridRow, grid
from pipelines.train.curves import Curve, plot

SHEET_FILE: Final = "contact-sheet.png"
LOSS_FILE: Final = "loss.png"
REPORT_FILE: Final = "report.html"

Images = Sequence[bytes]  # one PNG for each prompt


@dataclass(frozen=True)
class Results:
    """The versions, images and measurements of a demo."""

    versions: tuple[RegisteredVersion, RegisteredVersion]
    same: tuple[Images, Images, Images, Images]  # base, version 1, version 2, rolled back
    fresh: tuple[Images, Images, Images]  # version 1, version 2, rolled back
    swap: Swap
    rollback_seconds: float
    usage: dict[str, Any]


def write_results(results: Results, folder: Path, clock: Clock, client: ImageClient) -> list[str]:
    """Write the files to `folder` and return their paths."""
    first, second = results.versions
    columns = ("base", f"version {first.version}", f"version {second.version}", "after rollback")
    rows = _rows(SHEET, results.same, client)
    grid_rows = [
        GridRow(row.prompt, f"seed {row.seed}", [_image(png) for png in row.images]) for row in rows
    ]
    grid(columns, grid_rows).save(folder / SHEET_FILE)
    curves = [Curve.read(f"version {version.version}", version.log) for version in results.versions]
    plot(curves, folder / LOSS_FILE)
    report = DemoReport(
        adapter=first.recipe.adapter,
        trigger=first.recipe.trigger,
        columns=columns,
        rows=rows,
        training_pictures=_training_pictures(first),
        fresh=_rows(FRESH, results.fresh, client),
        versions=[_version_row(version) for version in results.versions],
        swap=results.swap,
        rollback_seconds=results.rollback_seconds,
        steps=clock.steps,
        seconds=clock.seconds,
        loss_plot=folder / LOSS_FILE,
        facts=_facts(results),
    )
    report.write(folder / REPORT_FILE)
    return [str(folder / name) for name in (SHEET_FILE, LOSS_FILE, REPORT_FILE)]


def _rows(
    prompts: Sequence[SeededPrompt], columns: Sequence[Images], client: ImageClient
) -> tuple[SheetRow, ...]:
    return tuple(
        SheetRow(client.prompt(prompt), prompt.seed, tuple(column[index] for column in columns))
        for index, prompt in enumerate(prompts)
    )


def _version_row(version: RegisteredVersion) -> VersionRow:
    return VersionRow(
        version=version.version,
        digest=version.package.digest,
        training=training_summary(version.recipe),
        gates=version.evaluation.gates,
        accepted=version.evaluation.accepted,
    )


def _training_pictures(version: RegisteredVersion) -> tuple[Path, ...]:
    stage = version.recipe.stages[0]
    folder = open_folder(version.recipe.dataset_folder(stage), stage.dataset.captions)
    return tuple(picture.path for picture in folder.pictures)


def _facts(results: Results) -> list[tuple[str, str]]:
    first, second = results.versions
    manifest, evaluation = first.package.manifest, first.evaluation
    return [
        ("base", f"{manifest.base.id} {manifest.base.digest}"),
        ("dataset", manifest.dataset or "unknown"),
        (f"version {first.version}", first.package.digest),
        (f"version {second.version}", second.package.digest),
        ("engine", f"{evaluation.backend} {evaluation.engine_digest}"),
        ("policy", evaluation.policy),
        ("git commit", manifest.git_commit or "none"),
        ("images charged to the key", str(results.usage.get("images"))),
    ]


def _image(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))
