"""Scores the checkpoints of a training, so that the best one becomes the adapter.

A score is much cheaper than an evaluation: it needs the prompts of the subject and of the class
only, and half of the seeds of the first look. The sampling is that of the policy: with half of the
steps, the class drift of one adapter was 0.50 instead of 0.40, so that the limits did not fit. A
score orders the checkpoints of one training. The verdict on the chosen one is still that of
`evaluate`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from PIL import Image

from atelier.adapter.package import Package
from atelier.data.policy import Gates, Measure, Policy
from atelier.data.recipe import Recipe
from atelier.files import digest_json
from pipelines.train.choosing import Score

from .evaluation import Kind, Measures
from .gates import limits, statistic
from .judge import loaded
from .measure_info import MEASURES
from .measures import Pair, ReferenceSet, measure
from .prompt_set import PromptCase, prompt_set
from .references import reference_set
from .renderer import Renderer
from .scorers import Scorers

if TYPE_CHECKING:
    from services.engine import AdapterUse, Engine

GROUP: Final = 8  # pictures between two checks for a stop
REPORTED: Final[tuple[Measure, ...]] = ("subject", "text", "class_drift", "leak")


def margins(measures: Measures, gates: Gates) -> dict[tuple[Measure, Kind], float]:
    """Return the margin of every gate that has a value, by its measure and the kind of its limit.

    The margin is the distance of the value from the limit, divided by the size of the limit: 0 at
    the limit, positive if the gate passes, and 0.2 if the value is better by a fifth of the limit.
    The divisor of the limit 0 is 1.

    Some gates are guards: no value on their good side is better than another (diversity, sharpness,
    effect), or the worst picture decides (copying). The margin of a guard is at most 0. The
    consistency of the training pictures has no margin, because no checkpoint changes it.
    """
    found = {}
    for name, kind, limit in limits(gates):
        value = statistic(measures, name, kind)
        if value is None or not MEASURES[name].sampled:
            continue
        distance = value - limit if kind.startswith("min") else limit - value
        margin = distance / (abs(limit) or 1.0)
        found[name, kind] = min(0.0, margin) if _is_guard(name) else margin
    return found


def score(measures: Measures, policy: Policy) -> Score:
    """Return the score of a checkpoint: the smallest margin over the gates of the policy.

    A guard that passes is left out, so a checkpoint that passes every gate has a margin of at least
    0, and one that fails a gate has a negative margin. The sum of the margins decides between equal
    ones. Both are rounded to six digits, as the measures are.
    """
    found = margins(measures, policy.gates)
    counting = [margin for (name, _), margin in found.items() if margin < 0 or not _is_guard(name)]
    return Score(
        margin=round(min(counting, default=0.0), 6),
        total=round(sum(found.values()), 6),
        values=_values(measures, policy.gates),
    )


def _is_guard(name: Measure) -> bool:
    return MEASURES[name].better == "neither" or MEASURES[name].largest


def _values(measures: Measures, gates: Gates) -> dict[str, float]:
    """Return the means of the measures to report, and of all gated ones."""
    names = [name for name in MEASURES if name in REPORTED or name in gates]
    means = {name: statistic(measures, name, "min") for name in names if MEASURES[name].sampled}
    return {name: round(mean, 6) for name, mean in means.items() if mean is not None}


def checkpoint_judge(policy: Policy, recipe: Recipe) -> "CheckpointJudge | None":
    """Return the judge of a training; None unless the recipe has `checkpoint.judge`."""
    return CheckpointJudge(policy, recipe) if recipe.checkpoint.judge else None


class CheckpointJudge:
    """Scores the checkpoints of one training under a policy (`pipelines.train.choosing.Judge`)."""

    def __init__(self, policy: Policy, recipe: Recipe) -> None:
        """Judge the training of `recipe`. Raises PolicyError if its gates loosen the policy."""
        self._recipe = recipe
        self._policy = policy.tightened(recipe.gates)
        limits(self._policy.gates)  # fail before the training
        self._seeds = range(max(1, policy.seeds.first // 2))
        self._session: _Session | None = None

    @property
    def digest(self) -> str:
        """The digest of the policy, of the recipe's gates, and of the number of pictures."""
        return digest_json({"policy": self._policy.digest, "seeds": len(self._seeds)})

    def score(self, package: Package, engine: "Engine", check: Callable[[], None]) -> Score:
        """Render, measure and score; `check` is called between groups of pictures.

        All checkpoints of one training get the same prompts, seeds and groups, so equal packages
        get equal scores.
        """
        self._session = self._session or self._begun(package, engine, check)
        with loaded(engine, package) as adapter:
            pictures = self._session.rendered((adapter,), check)
        return score(self._session.measured(pictures), self._policy)

    def _begun(self, package: Package, engine: "Engine", check: Callable[[], None]) -> "_Session":
        manifest = package.manifest
        cases = prompt_set(
            self._policy, trigger=manifest.trigger, noun=manifest.noun, seeds=self._seeds
        )
        session = _Session(
            cases=[case for case in cases if case.role != "unrelated"],
            renderer=Renderer(engine, self._policy, None, lambda *_: None),
            references=reference_set(manifest, self._recipe),
            scorers=Scorers(self._policy.scorers.model_dump(), str(engine.base.device)),
        )
        return replace(session, base=session.rendered((), check))


@dataclass(frozen=True)
class _Session:
    """The objects that all scores of a training share; `base` are the base's pictures."""

    cases: Sequence[PromptCase]
    renderer: Renderer
    references: ReferenceSet
    scorers: Scorers
    base: Sequence[Image.Image] = ()

    def rendered(
        self, adapters: "tuple[AdapterUse, ...]", check: Callable[[], None]
    ) -> list[Image.Image]:
        """Render all cases, always in the same groups, because a group affects the rounding."""
        pictures = []
        for start in range(0, len(self.cases), GROUP):
            check()
            pictures += self.renderer.pictures(self.cases[start : start + GROUP], adapters)
        return pictures

    def measured(self, pictures: Sequence[Image.Image]) -> Measures:
        """Measure the pictures of a checkpoint."""
        pairs = [Pair(*three) for three in zip(self.cases, pictures, self.base, strict=True)]
        return measure(pairs, self.references, self.scorers, self.scorers.optional)
