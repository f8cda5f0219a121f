"""The summary that `atelier validate` writes for a pull request."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from commands.ci.markdown import code, plain, rows

if TYPE_CHECKING:
    from pipelines.evaluate import Comparison, GateResult
    from pipelines.evaluate.against_serving import JudgedVersion, Validation

_LINEAGE = {
    "dataset": "atelier.dataset",
    "recipe": "atelier.data.recipe",
    "commit": "atelier.git_commit",
}


def summary(found: "Validation", *, pictures: str, command: str, run: str | None) -> str:
    """The summary as Markdown.

    `pictures` says where to find them, `command` repeats the validation, and `run` is the address
    of the candidate's run.
    """
    said = "accepted" if found.accepted else "refused"
    serving = f"against {found.serving.label}" if found.serving else "no version serves yet"
    return (
        "\n\n".join(
            part
            for part in (
                f"## {'✅' if found.accepted else '❌'} {plain(found.candidate.label)}: {said} "
                f"for {plain(found.environment)}, {plain(serving)}",
                "\n".join(f"- {plain(reason)}" for reason in found.reasons),
                "### Gates\n\n" + _gates(found.verdict.gates),
                _comparison(found.comparison, found.environment),
                f"### Pictures\n\n{pictures}",
                "### Lineage\n\n" + _lineage(found.candidate, run),
                f"Repeat with {code(command)}",
            )
            if part
        )
        + "\n"
    )


def _gates(gates: "Sequence[GateResult]") -> str:
    return rows(
        ("gate", "number", "limit", "95 % interval", ""),
        [
            (
                one.name,
                "not measured" if one.value is None else f"{one.value:.3f}",
                f"{one.kind.replace('_', ' ')} {one.threshold:g}",
                _interval(one.ci),
                "passed" if one.passed else "**failed**",
            )
            for one in gates
        ],
    )


def _comparison(compared: "Comparison | None", environment: str) -> str:
    if compared is None:
        return f"No version serves in {plain(environment)}, so there is no comparison."
    limits = {
        name: ", ".join(
            f"{gate.kind.replace('_', ' ')} {gate.threshold:g}"
            + ("" if gate.passed else " **failed**")
            for gate in compared.gates
            if gate.name == name
        )
        for name in {gate.name for gate in compared.gates}
    }
    table = rows(
        ("measure", "candidate", "serving", "difference", "95 % interval", "limit", ""),
        [
            (
                one.name,
                f"{one.candidate:.3f}",
                f"{one.serving:.3f}",
                f"{one.delta:+.3f}",
                _interval(one.ci, sign="+"),
                limits.get(one.name, ""),
                one.word,
            )
            for one in compared.differences
        ],
    )
    remarks = "".join(f"\n- {plain(remark)}" for remark in compared.remarks)
    return f"### Comparison with the version that serves, on the same seeds\n\n{table}" + (
        remarks and f"\n{remarks}"
    )


def _interval(ci: tuple[float, float] | None, sign: str = "") -> str:
    return "" if ci is None else f"{ci[0]:{sign}.3f} to {ci[1]:{sign}.3f}"


def _lineage(candidate: "JudgedVersion", run: str | None) -> str:
    told = {"package": candidate.info.digest, "run": run or candidate.info.run_id}
    told |= {
        what: candidate.info.tags[tag]
        for what, tag in _LINEAGE.items()
        if tag in candidate.info.tags
    }
    told["engine"] = f"{candidate.evaluation.backend}, {candidate.evaluation.engine_digest}"
    return rows(("", ""), [(what, code(value)) for what, value in told.items()])
