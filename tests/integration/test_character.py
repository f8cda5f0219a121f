"""A character nobody has seen, drawn from a seed chosen now, is learnt and recognised.

The base knows cats, rabbits and robots, not this one. An adapter trained on eight pictures of it
must make it recognisable in places where it was never shown, and leave everything else alone. Set
ATELIER_CHARACTER_SEED to repeat a run.
"""

from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image

from atelier.data.policy import Policy
from models.miniature.build.world import PHRASES, character, draw
from pipelines.evaluate.gates import verdict
from pipelines.evaluate.scorers import Scorers
from tests.integration.character import Learnt, needs_miniature, require_oracle_agrees

STRANGERS = 7  # other characters of its kind that it must not be taken for

pytestmark = needs_miniature


def test_the_verdict_agrees_with_the_oracle(
    learnt: Learnt, record_property: Callable[[str, object], None]
) -> None:
    """Most characters are learnt well, and accepted; the oracle says which are not."""
    record_property(f"ATELIER_CHARACTER_SEED {learnt.subject.seed}", learnt.subject.kind)
    record_property(learnt.subject.name, require_oracle_agrees(learnt, "good"))


def test_it_is_far_more_like_itself_than_the_base_is(learnt: Learnt) -> None:
    asks = learnt.policy.model_dump() | {"gates": {"subject": {"min_delta": 0.0}}}
    (gate,) = verdict(learnt.evaluation, Policy.model_validate(asks)).gates
    assert gate.value is not None
    assert gate.ci is not None
    assert gate.ci[0] > 0.0, (learnt.subject.name, gate)
    # Of the way from the base's likeness to that of the training pictures among themselves.
    ceiling = learnt.evaluation.measures.references.likeness["subject"]
    pictures = [one for one in learnt.evaluation.measures.pictures if one.role == "subject"]
    base = float(np.mean([one.base_values["subject"] for one in pictures]))
    assert gate.value > 0.4 * (ceiling - base), (learnt.subject.name, gate.value, base, ceiling)


def test_it_is_told_from_others_of_its_kind_where_it_was_never_shown(learnt: Learnt) -> None:
    """Every picture is given to the character whose drawings it is most like."""
    scorers = Scorers(learnt.policy.scorers.model_dump())
    rng = Random(0)
    people = [
        character(learnt.subject.seed + number, learnt.subject.kind)
        for number in range(STRANGERS + 1)
    ]
    drawings = [scorers.dino([draw(one, p, rng) for p in PHRASES]) for one in people]

    def share(images: list[Image.Image]) -> float:
        likeness = np.stack([scorers.dino(images) @ one.mean(axis=0) for one in drawings], axis=1)
        return float((likeness.argmax(axis=1) == 0).mean())

    # The base's own pictures may happen to be most like this one; by chance it is one in eight.
    told = share(learnt.pictures(base=False))
    assert told >= 0.6, (learnt.subject.name, told, share(learnt.pictures(base=True)))


def test_what_was_not_asked_for_stays(learnt: Learnt) -> None:
    drift = next(gate for gate in learnt.evaluation.gates if gate.name == "drift")
    assert drift.value is not None
    assert drift.value < drift.threshold, (learnt.subject.name, drift)
