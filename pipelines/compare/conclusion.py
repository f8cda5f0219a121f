"""Writes the sentence on top of a comparison: which is better, on which prompts, and how sure."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from .parameters import RunGroup
from .scores import ScoreDifference
from .trainings import LEVEL

NAMED: Final = 3  # measures in one part of the sentence; the table has all
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True)
class Rival:
    """A recipe or run that is compared with the first one, and its differences from it."""

    group: RunGroup
    differences: tuple[ScoreDifference, ...]


@dataclass(frozen=True)
class Conclusion:
    """One sentence in two parts: the claim, and how sure it is."""

    claim: str
    certainty: str = ""

    @property
    def sentence(self) -> str:
        """The whole sentence."""
        return f"{self.claim}; {self.certainty}." if self.certainty else f"{self.claim}."


def conclusion(first: RunGroup, rivals: Sequence[Rival]) -> Conclusion:
    """Return the conclusion about all rivals.

    A difference is sure if it holds at 95 % for all measures and rivals together. A difference
    whose own interval excludes zero is named as less sure. Without the scatter between trainings,
    the claim is limited to these trainings.
    """
    tested = {
        (rival.group.label, each.name): each
        for rival in rivals
        for each in rival.differences
        if each.better is not None and each.estimate.p is not None
    }
    if not tested:
        others = _listed([rival.group.label for rival in rivals])
        return Conclusion(
            f"{first.label} cannot be compared with {others}, because no measure has two pictures "
            "of one prompt"
        )
    p_values = {key: each.estimate.p or 0.0 for key, each in tested.items()}
    sure = holm(p_values, 1 - LEVEL)
    clauses = []
    for rival in rivals:
        own = [key for key in tested if key[0] == rival.group.label]
        less = [key for key in own if key not in sure and p_values[key] < 1 - LEVEL]
        parts = [[tested[key] for key in own if key in sure], [tested[key] for key in less]]
        clauses.append(_clause(first.label, rival.group.label, *parts))
    measures = len({name for _, name in tested})
    return Conclusion(_opening("; ".join(clauses)), _certainty(measures, list(tested.values())))


def repeats_only(group: RunGroup, sds: Mapping[str, float]) -> Conclusion:
    """Return the conclusion for runs of one recipe; `sds` has a standard deviation by measure."""
    claim = (
        f"These {len(group.runs)} runs are repeats of one recipe with different seeds, so none of "
        "them shows a better recipe"
    )
    scatter = ", ".join(f"{sd:.3f} in {title}" for title, sd in list(sds.items())[:NAMED])
    return Conclusion(claim, f"trainings scatter by {scatter} (standard deviation)" if sds else "")


def holm(p_values: Mapping[_Key, float], error: float) -> set[_Key]:
    """Return the significant keys; `error` is the chance that any is wrong (Holm, 1979)."""
    found: set[_Key] = set()
    for rank, key in enumerate(sorted(p_values, key=p_values.__getitem__)):
        if p_values[key] > error / (len(p_values) - rank):
            break
        found.add(key)
    return found


def _clause(
    first: str, other: str, sure: Sequence[ScoreDifference], less: Sequence[ScoreDifference]
) -> str:
    better, worse = _split(sure)
    if not sure:
        text = f"no difference between {other} and {first} is sure"
        return _less_sure(text, other, *_split(less))
    if worse and not better:  # the first one wins, so the sentence is about it
        return _less_sure(
            f"{first} is better than {other} on {_named(worse)}", "it", *_split(less)[::-1]
        )
    but = f", but worse on {_named(worse)}" if worse else ""
    text = f"{other} is better than {first} on {_named(better)}{but}"
    return _less_sure(text, "it", *_split(less))


def _less_sure(
    text: str,
    subject: str,
    better: Sequence[ScoreDifference],
    worse: Sequence[ScoreDifference],
) -> str:
    """Add the differences that hold for their own measure alone."""
    parts = [
        f"{word} on {_listed([one.title for one in each])}"
        for word, each in (("better", better), ("worse", worse))
        if each
    ]
    return f"{text}; less surely, {subject} is {' and '.join(parts)}" if parts else text


def _split(
    differences: Sequence[ScoreDifference],
) -> tuple[list[ScoreDifference], list[ScoreDifference]]:
    """Return the differences in which the rival is better, and those in which it is worse."""
    better = [each for each in differences if each.better]
    return better, [each for each in differences if not each.better]


def _named(differences: Sequence[ScoreDifference]) -> str:
    """Return the surest measures with their differences and prompts."""
    ordered = sorted(differences, key=lambda each: each.estimate.p or 0.0)
    texts = [_difference(each) for each in ordered[:NAMED]]
    if len(ordered) > NAMED:
        texts.append(f"{len(ordered) - NAMED} more")
    return _listed(texts)


def _difference(each: ScoreDifference) -> str:
    ci = each.estimate.ci
    reach = f" ± {(ci[1] - ci[0]) / 2:.3f}" if ci else ""
    return f"{each.title} (by {abs(each.estimate.delta):.3f}{reach}{_where(each)})"


def _where(each: ScoreDifference) -> str:
    """Return on which prompts the difference is told apart; empty if on none by itself."""
    same = [
        prompt
        for prompt in each.prompts
        if prompt.told_apart and (prompt.estimate.delta > 0) == (each.estimate.delta > 0)
    ]
    if len(each.prompts) < 2 or not same:
        return ""
    if len(same) == len(each.prompts):
        return ", on every prompt"
    most = max(same, key=lambda prompt: abs(prompt.estimate.delta))
    return f", most on “{most.prompt}”"


def _certainty(measures: int, tested: Sequence[ScoreDifference]) -> str:
    """Return the confidence, and whether it includes the scatter between trainings."""
    together = f"{measures} measures together" if measures > 1 else "this measure"
    sure = f"sure means 95 % confidence for {together}"
    known = [each.known for each in tested if each.known]
    if not known:
        return (
            f"{sure}, for these trainings only: whether the recipes differ is unknown, because the "
            "scatter between trainings is unknown"
        )
    freedom = min(each.freedom for each in known)
    partly = "" if len(known) == len(tested) else " of some measures"
    return (
        f"{sure}, with the scatter between trainings{partly} included, "
        f"estimated with {freedom} degree{'s' if freedom > 1 else ''} of freedom"
    )


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _opening(text: str) -> str:
    """Begin the sentence with a capital, unless it begins with the name of a run."""
    return text.replace("no", "No", 1) if text.startswith("no difference") else text
