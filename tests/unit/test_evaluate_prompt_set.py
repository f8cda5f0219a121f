"""The policy's prompts become an adapter's own pictures."""

import pytest

from atelier.data.manifest import BaseRef, Manifest
from atelier.data.policy import Policy
from pipelines.evaluate.prompt_set import class_noun, fill, prompt_set

DIGEST = "sha256:" + "a" * 64


def manifest(trigger: str, class_prompt: str | None) -> Manifest:
    return Manifest(
        name="thor-cat",
        base=BaseRef(id="models/miniature", digest=DIGEST),
        rank=4,
        alpha=4.0,
        trigger=trigger,
        class_prompt=class_prompt,
        files={"adapter.safetensors": DIGEST},
    )


@pytest.mark.parametrize(
    ("trigger", "class_prompt", "noun"),
    [
        ("sks cat", "a photo of a cat", "cat"),
        ("sks", "an image of the old house", "old house"),
        ("sks", "cat", "cat"),
        ("sks toy robot", None, "toy robot"),
        ("thorcat", None, "thorcat"),
        ("", None, ""),
    ],
)
def test_the_class_is_what_the_trigger_is_a_particular_one_of(
    trigger: str, class_prompt: str | None, noun: str
) -> None:
    assert class_noun(manifest(trigger, class_prompt)) == noun


def test_every_prompt_meets_every_seed_and_text_is_judged_by_the_class() -> None:
    policy = Policy.model_validate(
        {
            "scorers": {"clip": "c", "dino": "d"},
            "seeds": {"first": 2, "most": 4},
            "prompts": {
                "subject": ["{trigger} at night"],
                "class": ["a {class}"],
                "unrelated": ["a dog"],
            },
            "gates": {"effect": {"min": 0.01}},
        }
    )
    found = prompt_set(policy, trigger="sks cat", noun="cat", seeds=(3, 5))
    assert [(shot.role, shot.prompt, shot.text, shot.seed) for shot in found] == [
        ("subject", "sks cat at night", "cat at night", 3),
        ("subject", "sks cat at night", "cat at night", 5),
        ("class", "a cat", "a cat", 3),
        ("class", "a cat", "a cat", 5),
        ("unrelated", "a dog", "a dog", 3),
        ("unrelated", "a dog", "a dog", 5),
    ]
    assert len({shot.file for shot in found} | {shot.base_file for shot in found}) == 12


def test_an_empty_trigger_leaves_no_gap() -> None:
    assert fill("a {trigger} house on the {class}", trigger="", noun="beach") == (
        "a house on the beach"
    )
