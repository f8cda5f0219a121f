"""`atelier validate`: a candidate's verdict for an environment, against the version in it."""

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
        int | None, typer.Argument(min=1, help="By default the newest candidate.")
    ] = None,
    environment: Annotated[
        str, typer.Option(help="Its policy judges; its alias names what serves.")
    ] = "staging",
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For the summary, and a sheet of pictures.")
    ] = None,
    summary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Appended to, as Markdown.")
    ] = None,
    pictures_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where people will find what --output gets, for a link."),
    ] = None,
    github_output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Add the version that was judged as a step's output."),
    ] = None,
) -> Answer:
    """Judge a candidate by its numbers, and against what serves, on the same seeds.

    Draws nothing: both versions were judged before. Exit code 1 when the candidate is refused.
    """
    from atelier.data.policy import Policy
    from commands.adapter_references import open_registry
    from commands.release.summary import summary as page
    from pipelines.evaluate.against_serving import validate as judge

    file = ENVIRONMENTS / environment / "policy.yaml"
    if not file.is_file():
        raise BadInput(f"{file}: there is none; environments are the folders of {ENVIRONMENTS}")
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
    """The pictures on one page in `output`, and how to see them, in Markdown."""
    from commands.ci.markdown import code, link
    from commands.serve.grid import GridRow, grid

    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / SHEET).unlink(missing_ok=True)
    if not found.side_by_side:
        sides = (found.candidate, *([found.serving] if found.serving else []))
        without = " and ".join(code(one.label) for one in sides if not one.pictures)
        return f"None: nobody stored any beside {without}, which an older program judged."
    own = (
        f"The verdict's own pictures are {code('sheet.png')} beside {code(found.candidate.label)}."
    )
    if output is None:
        return f"{own} {code('--output DIR')} puts some beside those of what serves."
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
    against = f"against {found.serving.label}" if found.serving else "where nothing serves yet"
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
