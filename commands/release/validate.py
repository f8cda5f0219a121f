"""`atelier validate`: judge a candidate and compare it with the version that serves."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.errors import BadInput
from atelier.home import Home
from commands.ci.outputs import add_outputs
from commands.table import table
from commands.verb import Answer

if TYPE_CHECKING:
    from pipelines.evaluate.against_serving import Validation

REFUSED = 1
ENVIRONMENTS = Path("k8s/environments")
SUMMARY, SHEET = "summary.md", "sheet.jpg"


def validate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The adapter.")],
    version: Annotated[
        int | None, typer.Argument(min=1, help="Version number. Default: the newest candidate.")
    ] = None,
    environment: Annotated[
        str, typer.Option(help="Environment, for its policy and its serving version.")
    ] = "staging",
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the summary and a sheet of pictures."),
    ] = None,
    summary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append the summary as Markdown.")
    ] = None,
    pictures_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Address of the --output folder, for a link in the summary."
        ),
    ] = None,
    github_output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append the judged version as a step output."),
    ] = None,
) -> Answer:
    """Judge a candidate and compare it with the version that serves.

    Uses the measurements of both versions on the same seeds and draws no pictures. Exit code 1 if
    the candidate is refused.
    """
    from atelier.data.policy import Policy
    from commands.adapter_references import open_registry
    from commands.release.summary import summary as page
    from pipelines.evaluate.against_serving import validate as judge

    file = ENVIRONMENTS / environment / "policy.yaml"
    if not file.is_file():
        raise BadInput(f"{file}: does not exist; environments are the folders of {ENVIRONMENTS}")
    policy, registry = Policy.load(file), open_registry(Home.find())
    found = judge(registry, name, version, environment=environment, policy=policy)
    command = ["atelier", "validate", name, str(found.candidate.info.version)]
    text = page(
        found,
        pictures=_sheet(found, output, pictures_url),
        command=shlex.join([*command, "--environment", environment]),
        run=registry.run_url(found.candidate.info.run_id),
    )
    if output is not None:
        (output / SUMMARY).write_text(text, encoding="utf-8")
    if summary is not None:
        summary.parent.mkdir(parents=True, exist_ok=True)
        with summary.open("a", encoding="utf-8") as end:
            end.write(text)
    add_outputs(github_output, {"version": found.candidate.info.version})
    return _answer(found)


def _sheet(found: "Validation", output: Path | None, url: str | None) -> str:
    """Write the sheet of pictures to `output`; Markdown that says where they are."""
    from commands.ci.markdown import code, link
    from commands.serve.grid import GridRow, grid

    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / SHEET).unlink(missing_ok=True)
    if not found.side_by_side:
        sides = (found.candidate, *([found.serving] if found.serving else []))
        without = " and ".join(code(one.label) for one in sides if not one.pictures)
        return (
            f"None: there are no stored pictures of {without}, because an older release of Atelier "
            "judged it."
        )
    own = f"All pictures of the verdict: {code('sheet.png')} beside {code(found.candidate.label)}."
    if output is None:
        return f"{own} {code('--output DIR')} writes a sheet of both versions."
    rows = [
        GridRow(prompt, f"seed {seed}", pictures) for prompt, seed, pictures in found.side_by_side
    ]
    names = [f"candidate {found.candidate.info.version}"]
    names += [f"serving {found.serving.info.version}"] if found.serving else []
    grid(names, rows, tile=256).save(output / SHEET, quality=88)
    place = link(output / SHEET, url) if url else code(output / SHEET)
    return f"{place}: {' | '.join(map(code, names))}, from the same noise. {own}"


def _answer(found: "Validation") -> Answer:
    compared = found.comparison
    lines = [
        table(
            ("MEASURE", "CANDIDATE", "SERVING", "DIFFERENCE", "95 %", ""),
            [
                (
                    one.name,
                    f"{one.candidate:.3f}",
                    f"{one.serving:.3f}",
                    f"{one.delta:+.3f}",
                    f"{one.ci[0]:+.3f} to {one.ci[1]:+.3f}",
                    one.word,
                )
                for one in (compared.differences if compared else ())
            ],
        ),
        *(f"- {remark}" for remark in (compared.remarks if compared else ())),
        *(f"- {reason}" for reason in found.reasons),
    ]
    against = f"against {found.serving.label}" if found.serving else "no version serves yet"
    said = "accepted" if found.accepted else "refused"
    last = f"{found.candidate.label}: {said} for {found.environment}, {against}"
    text = "\n".join([*(lines if compared else lines[1:]), last])
    return Answer(text, _data(found), 0 if found.accepted else REFUSED)


def _data(found: "Validation") -> dict[str, Any]:
    compared = found.comparison
    return {
        "adapter": found.candidate.info.name,
        "version": found.candidate.info.version,
        "digest": found.candidate.info.digest,
        "environment": found.environment,
        "serving": found.serving.info.version if found.serving else None,
        "accepted": found.accepted,
        "reasons": list(found.reasons),
        "gates": [gate.model_dump(mode="json") for gate in found.verdict.gates],
        "differences": [
            {
                "name": one.name,
                "candidate": one.candidate,
                "serving": one.serving,
                "delta": one.delta,
                "ci": one.ci,
                "word": one.word,
            }
            for one in (compared.differences if compared else ())
        ],
    }
