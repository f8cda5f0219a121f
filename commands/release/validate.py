"""`atelier validate`: compare a candidate with the serving version and give a verdict."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import ExitCode
from atelier.home import Home
from commands.command import Answer
from commands.github_actions import add_outputs, add_summary
from commands.terminal import table

if TYPE_CHECKING:
    from pipelines.evaluate.against_serving import Validation

SUMMARY, SHEET = "summary.md", "sheet.jpg"


def validate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the adapter.")],
    version: Annotated[
        int | None,
        typer.Argument(
            min=1, metavar="VERSION", help="Version number. Default: the newest candidate."
        ),
    ] = None,
    environment: Annotated[
        str, typer.Option(help="Environment that sets the policy and the serving version.")
    ] = "staging",
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the summary and a contact sheet."),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append the summary to this file as Markdown."),
    ] = None,
    pictures_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="URL of the --output folder, for a link in the summary."),
    ] = None,
    github_output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append the version to this file as a step output."),
    ] = None,
) -> Answer:
    """Compare a candidate with the serving version, and judge it.

    Uses the stored evaluations of both versions on the same seeds; generates no images. Exit code 1
    if the candidate is refused.
    """
    from atelier.data.declaration import Declarations
    from atelier.data.policy import Policy
    from atelier.stores.registry import Registry
    from commands.release.summary import summary as summary_of
    from pipelines.evaluate import against_serving

    policy = Policy.load(Declarations(Path(), environment).policy)
    registry = Registry(Home.find().tracking_uri)
    validation = against_serving.validate(
        registry, name, version, environment=environment, policy=policy
    )
    candidate = validation.candidate.info
    command = ["atelier", "validate", name, str(candidate.version), "--environment", environment]
    markdown = summary_of(
        validation,
        pictures=_pictures(validation, output, pictures_url),
        command=shlex.join(command),
        run=registry.run_url(candidate.run_id),
    )
    if output is not None:
        (output / SUMMARY).write_text(markdown, encoding="utf-8")
    if summary is not None:
        add_summary(summary, markdown)
    add_outputs(github_output, {"version": candidate.version})
    return _answer(validation)


def _pictures(validation: "Validation", output: Path | None, url: str | None) -> str:
    """Write the contact sheet to `output`, and return Markdown that names the image files."""
    from commands.markdown import code, link
    from pipelines.evaluate.grid import GridRow, grid

    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / SHEET).unlink(missing_ok=True)
    versions = (validation.candidate, *([validation.serving] if validation.serving else []))
    if not validation.side_by_side:
        without = " and ".join(code(version.label) for version in versions if not version.pictures)
        return (
            f"None, because the evaluation of {without} by an older release of Atelier stored no "
            "images."
        )
    fetch = f"atelier adapters pictures {validation.candidate.label}"
    own = f"{code(fetch)} fetches the report and the stored images of the evaluation."
    if output is None:
        return f"{own} {code('--output DIR')} writes a contact sheet of both versions."
    rows = [
        GridRow(prompt, f"seed {seed}", pictures)
        for prompt, seed, pictures in validation.side_by_side
    ]
    roles = ("candidate", "serving")
    columns = [
        f"{role} {version.info.version}" for role, version in zip(roles, versions, strict=False)
    ]
    grid(columns, rows, tile=256).save(output / SHEET, quality=88)
    sheet = link(output / SHEET, url) if url else code(output / SHEET)
    return f"{sheet}: {' | '.join(map(code, columns))}, from the same noise. {own}"


def _answer(validation: "Validation") -> Answer:
    comparison = validation.comparison
    lines = []
    if comparison is not None:
        rows = [
            (
                difference.name,
                f"{difference.candidate:.3f}",
                f"{difference.serving:.3f}",
                f"{difference.delta:+.3f}",
                difference.interval,
                difference.word,
            )
            for difference in comparison.differences
        ]
        heads = ("MEASURE", "CANDIDATE", "SERVING", "DIFFERENCE", "95 %", "")
        lines += [table(heads, rows), *(f"- {remark}" for remark in comparison.remarks)]
    lines += [f"- {reason}" for reason in validation.reasons]
    serving = validation.serving
    against = f"against {serving.label}" if serving else "no version serves yet"
    verdict = "accepted" if validation.accepted else "refused"
    label, environment = validation.candidate.label, validation.environment
    lines.append(f"{label}: {verdict} for {environment}, {against}")
    return Answer("\n".join(lines), _data(validation), ExitCode.of_verdict(validation.accepted))


def _data(validation: "Validation") -> dict[str, Any]:
    candidate, comparison = validation.candidate.info, validation.comparison
    return {
        "adapter": candidate.name,
        "version": candidate.version,
        "digest": candidate.digest,
        "environment": validation.environment,
        "serving": validation.serving.info.version if validation.serving else None,
        "accepted": validation.accepted,
        "reasons": list(validation.reasons),
        "gates": [gate.model_dump(mode="json") for gate in validation.verdict.gates],
        "differences": [
            {
                "name": difference.name,
                "candidate": difference.candidate,
                "serving": difference.serving,
                "delta": difference.delta,
                "ci": difference.ci,
                "word": difference.word,
            }
            for difference in (comparison.differences if comparison else ())
        ],
    }
