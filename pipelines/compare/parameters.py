"""Compares the recipes of runs key by key, and finds the repeats of one recipe."""

from collections.abc import Sequence
from dataclasses import dataclass

from .runs import RunRecord


@dataclass(frozen=True)
class ParameterRow:
    """A key of the recipe, or an input, with its value in each run; None if it is not set."""

    key: str
    values: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        """Whether two runs have different values."""
        return len(set(self.values)) > 1


@dataclass(frozen=True)
class RunGroup:
    """The runs of one recipe that differ in their training seed alone; `runs` are their indices."""

    label: str
    runs: tuple[int, ...]


def parameter_rows(runs: Sequence[RunRecord]) -> list[ParameterRow]:
    """Return all inputs and all keys of the recipes, inputs first, in the order of the recipes."""
    rows = []
    for each in ([run.lineage for run in runs], [run.params for run in runs]):
        keys = dict.fromkeys(key for known in each for key in known)
        rows += [ParameterRow(key, tuple(known.get(key) for known in each)) for key in keys]
    return rows


def grouped(runs: Sequence[RunRecord]) -> list[RunGroup]:
    """Return the runs by recipe. Trainings with the same seed are no repeats of one another."""
    members: list[list[int]] = []
    for index, run in enumerate(runs):
        home = next((group for group in members if _repeats(run, [runs[i] for i in group])), None)
        if home is None:
            members.append([index])
        else:
            home.append(index)
    return [RunGroup(_label([runs[i] for i in group]), tuple(group)) for group in members]


def _repeats(run: RunRecord, group: Sequence[RunRecord]) -> bool:
    """Return whether the run has the recipe of the group and another seed than all of its runs."""
    return (
        run.recipe is not None
        and run.recipe == group[0].recipe
        and run.seed not in {other.seed for other in group}
    )


def _label(runs: Sequence[RunRecord]) -> str:
    first, repeats = runs[0].label, len(runs) - 1
    return first if not repeats else f"{first} with {repeats} repeat{'s' if repeats > 1 else ''}"
