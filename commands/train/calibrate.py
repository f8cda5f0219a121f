"""`atelier calibrate`: choose the limits of a policy from labelled adapters."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.command import Answer
from commands.terminal import table

if TYPE_CHECKING:
    from pipelines.evaluate.calibration import Check, ChosenLimit


def calibrate(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of labelled adapters: subfolders with evaluation.json and label.json.",
        ),
    ],
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Policy file. Default: the built-in policy.")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write the result as a Markdown page."),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the limits and error rates to the policy file.")
    ] = False,
) -> Answer:
    """Choose the limits of a policy from labelled adapters.

    The limits are chosen on half of the subjects and verified on the other half. Evaluate each
    adapter under the policy first, with all of the policy's seeds.
    """
    from atelier.data.policy import DEFAULT, Policy
    from pipelines.evaluate import calibration

    under, adapters = Policy.load(policy), calibration.load(folder)
    first, second = calibration.halves(adapters)
    chosen = calibration.choose(first, under)
    calibrated = calibration.with_limits(under, chosen)
    trained, verified = (calibration.check(half, calibrated) for half in (first, second))
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(calibration.report(calibrated, chosen, verified, trained), "utf-8")
    if write:
        calibration.write_limits(policy or DEFAULT, chosen, verified)
    return _answer(chosen, verified)


def _answer(chosen: "list[ChosenLimit]", verified: "Check") -> Answer:
    from pipelines.evaluate.calibration import summary

    rows = [
        (
            f"{limit.name} {limit.kind.replace('_', ' ')}",
            f"{limit.before:g}",
            f"{limit.limit:g}",
            f"{limit.worst_good:.3f}",
            "-" if limit.best_bad is None else f"{limit.best_bad:.3f}",
            len(limit.refuses),
        )
        for limit in chosen
    ]
    heads = ("GATE", "BEFORE", "LIMIT", "WORST GOOD", "BEST BAD", "REFUSES")
    data = {
        "limits": [
            {"gate": limit.name, "kind": limit.kind, "before": limit.before, "limit": limit.limit}
            for limit in chosen
        ],
        "wrong": verified.wrong,
        "undecided": verified.undecided,
        "adapters": len(verified.clear),
    }
    return Answer(f"{table(heads, rows)}\n{summary(verified)}", data)
