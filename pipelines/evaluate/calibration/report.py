"""Writes the result of a calibration: a Markdown page, and comments in the policy file."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ruamel.yaml import YAML

from atelier.data.policy import Policy
from atelier.files import write_atomic

from .check import Check, Outcome, Reliability
from .limits import ChosenLimit

_CALIBRATED: Final = "Calibrated."  # begins the comment in a policy file
DECISIONS: Final = ("accepted", "refused", "undecided")


def report(policy: Policy, chosen: Sequence[ChosenLimit], verified: Check, trained: Check) -> str:
    """Return the page. `verified` is the half that the limits never saw, `trained` the other."""
    sections = [
        "# Calibration of the gates",
        summary(verified),
        f"The limits were chosen on {len(trained.outcomes)} adapters of other subjects, of which "
        f"{_percent(trained.wrong)} are judged wrongly. Labels are not from the policy's scorers.",
        "## Verdicts by kind\n\n" + _confusion(verified),
        "## Causes\n\n" + _causes(verified),
        "## Wrong and undecided verdicts\n\n" + _cases(verified),
        "## Limits\n\n" + _limits(chosen),
        "## Separation of each gate alone\n\n"
        "The area under the ROC curve, over all bad adapters and over those of each kind. A gate "
        "is for some kinds only.\n\n" + _separations(verified),
        "## Reliability of the intervals\n\n"
        f"Two groups of {policy.seeds.first} seeds of one adapter have one true value. The table "
        "shows how often their difference is outside of both intervals.\n\n"
        + _reliability(verified.reliabilities),
    ]
    return "\n\n".join(sections) + "\n"


def summary(verified: Check) -> str:
    """Return the error rates in two sentences."""
    clear = verified.clear
    wrong = [outcome for outcome in clear if outcome.wrong]
    accepted = sum(not outcome.item.good for outcome in wrong)
    return (
        f"Of {len(clear)} clear-cut adapters of subjects that the limits never saw, {len(wrong)} "
        f"({_percent(verified.wrong)}) are judged wrongly: {accepted} bad ones accepted, "
        f"{len(wrong) - accepted} good ones refused. For {_percent(verified.undecided)} there is "
        "not enough evidence."
    )


def write_limits(file: Path, chosen: Sequence[ChosenLimit], verified: Check) -> None:
    """Write the limits into the policy file, with the error rates as a comment above the gates.

    Other comments and the order of the keys are kept.
    """
    yaml = YAML()
    yaml.width = 100
    lines = file.read_text("utf-8").splitlines(keepends=True)
    document = yaml.load("".join(line for line in lines if _CALIBRATED not in line))
    for limit in chosen:
        document["gates"][limit.name][limit.kind] = limit.limit
    document.yaml_set_comment_before_after_key("gates", before=f"{_CALIBRATED} {summary(verified)}")
    text = io.StringIO()
    yaml.dump(document, text)
    write_atomic(file, text.getvalue())


def _confusion(check: Check) -> str:
    rows = [
        (kind, label, *(str(counts[decision]) for decision in DECISIONS))
        for (kind, label), counts in sorted(check.confusion().items())
    ]
    return table(("kind", "label", *DECISIONS), rows)


def _causes(check: Check) -> str:
    named: dict[str, list[Outcome]] = {}
    for outcome in check.outcomes:
        if outcome.right_cause is not None:
            named.setdefault(outcome.item.label.kind, []).append(outcome)
    rows = [
        (
            kind,
            ", ".join(of_kind[0].item.label.causes),
            f"{sum(bool(o.right_cause) for o in of_kind)} of {len(of_kind)}",
            ", ".join(sorted({o.cause for o in of_kind if not o.right_cause})),
        )
        for kind, of_kind in sorted(named.items())
    ]
    return table(("kind", "expected cause", "named", "other causes named"), rows)


def _cases(check: Check) -> str:
    rows = [
        (o.item.name, o.item.label.kind, o.item.label.label, o.decision, o.cause, o.item.label.why)
        for o in check.outcomes
        if o.wrong or (o.decision == "undecided" and o.item.clear)
    ]
    return table(("adapter", "kind", "label", "verdict", "cause", "reason of the label"), rows)


def _limits(chosen: Sequence[ChosenLimit]) -> str:
    rows = [
        (
            f"{limit.name} {limit.kind.replace('_', ' ')}",
            f"{limit.before:g}",
            f"{limit.limit:g}",
            f"{limit.worst_good:.3f}",
            "" if limit.best_bad is None else f"{limit.best_bad:.3f}",
            str(len(limit.refuses)),
        )
        for limit in chosen
    ]
    heads = ("gate", "before", "limit", "worst good", "best bad that it refuses", "refuses")
    return table(heads, rows)


def _separations(check: Check) -> str:
    kinds = sorted({kind for separation in check.separations for kind in separation.kinds})
    rows = [
        (
            f"{s.name} {s.kind.replace('_', ' ')}",
            f"{s.area:.2f}",
            *(f"{s.kinds[kind]:.2f}" if kind in s.kinds else "" for kind in kinds),
        )
        for s in check.separations
    ]
    return table(("gate", "all", *kinds), rows)


def _reliability(found: Sequence[Reliability]) -> str:
    rows = [
        (
            "rates" if item.rate else "means",
            _percent(item.stated),
            _percent(item.observed),
            str(item.pairs),
        )
        for item in found
    ]
    return table(("intervals of", "stated error", "observed error", "pairs"), rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, or `none` without rows."""
    if not rows:
        return "none"
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
