"""A judged adapter made up from numbers: verdicts and promotions are tested without pictures."""

from atelier.policy import Policy
from pipelines.evaluate import Evaluation
from pipelines.evaluate.evaluation import Measured, Measures, References, Sampling
from pipelines.evaluate.shots import shots

DIGEST = "sha256:" + "a" * 64
TRIGGER, NOUN = "sks cat", "cat"


def policy(**changes: object) -> Policy:
    said = {
        "scorers": {"clip": "scorers/clip", "dino": "scorers/dino"},
        "seeds": [0, 1],
        "prompts": {"subject": ["{trigger} on the beach"], "unrelated": ["a red robot"]},
        "steps": 10,
        "gates": {
            "subject": {"min": 0.6},
            "text": {"min_delta": -0.03},
            "drift": {"max": 0.25},
            "copying": {"max": 0.9},
            "effect": {"min": 0.01},
        },
    }
    return Policy.model_validate(said | changes)


GOOD = {"subject": 0.8, "text": 0.3, "copying": 0.5, "effect": 0.1, "diversity": 0.2}


def evaluation(under: Policy, *, subject: dict[str, float] = GOOD, **changes: object) -> Evaluation:
    pictures = []
    for shot in shots(under, trigger=TRIGGER, noun=NOUN):
        about_subject = shot.role == "subject"
        pictures.append(
            Measured(
                role=shot.role,
                prompt=shot.prompt,
                seed=shot.seed,
                picture=shot.file,
                base_picture=shot.base_file,
                values=subject if about_subject else {"drift": 0.1},
                base_values={"text": 0.31, "subject": 0.4} if about_subject else {},
            )
        )
    said = {
        "adapter": "thor-cat",
        "digest": DIGEST,
        "base": DIGEST,
        "policy": under.digest,
        "backend": "torch",
        "engine_digest": "engine",
        "scorers": under.scorers.model_dump(),
        "scorer_digests": {},
        "trigger": TRIGGER,
        "noun": NOUN,
        "sampling": Sampling(
            scheduler=under.scheduler, steps=under.steps, guidance_scale=under.guidance_scale
        ),
        "measures": Measures(
            pictures=tuple(pictures),
            references=References(digest=DIGEST, files=("a.png",), held_back=False),
        ),
    }
    return Evaluation.model_validate(said | changes)


def replaced(one: Evaluation, index: int, **values: float) -> Evaluation:
    """The evaluation with some numbers of one picture changed."""
    pictures = list(one.measures.pictures)
    pictures[index] = pictures[index].model_copy(update={"values": pictures[index].values | values})
    measures = one.measures.model_copy(update={"pictures": tuple(pictures)})
    return one.model_copy(update={"measures": measures})
