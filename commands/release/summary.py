"""The Markdown summary of `atelier validate` for a pull request."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from commands.markdown import code, plain, rows

if TYPE_CHECKING:
    from pipelines.evaluate import Comparison, GateResult
    from pipelines.evaluate.against_serving import JudgedVersion, Validation

_LINEAGE = {
    "dataset": "atelier.dataset",
    "recipe": "atelier.recipe",
    "commit": "atelier.git_commit",
}


def summary(validation: "Validation", *, pictures: str, command: str, run: str | None) -> str:
    """Return the summary as Markdown.

    `pictures` is Markdown that names the location of the images. `command` is the command line that
    repeats the validation. `run` is the URL of the candidate's MLflow run.
    """
    candidate, serving = validation.candidate, validation.serving
    mark, verdict = ("✅", "accepted") if validation.accepted else ("❌", "refused")
    against = f"against {serving.label}" if serving else "no version serves yet"
    sections = [
        f"## {mark} {plain(candidate.label)}: {verdict} for {plain(validation.environment)}, "
        f"{plain(against)}",
        "\n".join(f"- {plain(reason)}" for reason in validation.reasons),
        "### Gates\n\n" + _gates(validation.verdict.gates),
        _comparison(validation.comparison, validation.environment),
        f"### Images\n\n{pictures}",
        "### Lineage\n\n" + _lineage(candidate, run),
        f"Repeat with {code(command)}",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _gates(gates: "Sequence[GateResult]") -> str:
    return rows(
        ("gate", "value", "limit", "interval", ""),
        [
            (
                gate.name,
                gate.measured,
                gate.limit,
                gate.interval,
                gate.mark if gate.passed else f"**{gate.mark}**",
            )
            for gate in gates
        ],
    )


def _comparison(comparison: "Comparison | None", environment: str) -> str:
    if comparison is None:
        return f"No version serves in {plain(environment)}, so there is no comparison."
    limits = {
        name: ", ".join(
            gate.limit + ("" if gate.passed else " **failed**")
            for gate in comparison.gates
            if gate.name == name
        )
        for name in {gate.name for gate in comparison.gates}
    }
    table = rows(
        ("measure", "candidate", "serving", "difference", "95 % interval", "limit", ""),
        [
            (
                difference.name,
                f"{difference.candidate:.3f}",
                f"{difference.serving:.3f}",
                f"{difference.delta:+.3f}",
                difference.interval,
                limits.get(difference.name, ""),
                difference.word,
            )
            for difference in comparison.differences
        ],
    )
    remarks = "".join(f"\n- {plain(remark)}" for remark in comparison.remarks)
    return f"### Comparison with the serving version on the same seeds\n\n{table}" + (
        remarks and f"\n{remarks}"
    )


def _lineage(candidate: "JudgedVersion", run: str | None) -> str:
    tags = candidate.info.tags
    lineage = {"package": candidate.info.digest, "run": run or candidate.info.run_id}
    lineage |= {source: tags[tag] for source, tag in _LINEAGE.items() if tag in tags}
    lineage["engine"] = f"{candidate.evaluation.backend}, {candidate.evaluation.engine_digest}"
    return rows(("", ""), [(source, code(value)) for source, value in lineage.items()])
