"""The policy's prompts become an adapter's own pictures."""

import pytest

from atelier.data.manifest import BaseRef, Manifest
from atelier.data.policy import Policy
from atelier.errors import BadInput, PolicyError
from pipelines.evaluate.prompt_set import fill, prompt_set, require_prompts

DIGEST = "sha256:" + "a" * 64


POLICY = Policy.model_validate(
    {
        "scorers": {"clip": "c", "dino": "d"},
        "seeds": {"first": 2, "most": 4},
        "prompts": {
            "subject": ["{trigger} at night", "{trigger}, a {class}"],
            "class": ["a {class}"],
            "unrelated": ["a dog"],
        },
        "gates": {"effect": {"min": 0.01}},
    }
)


def manifest(trigger: str, noun: str | None = None, **fields: object) -> Manifest:
    said = {
        "name": "thor-cat",
        "base": BaseRef(id="models/miniature", digest=DIGEST),
        "rank": 4,
        "alpha": 4.0,
        "trigger": trigger,
        "class": noun,
        "files": {"adapter.safetensors": DIGEST},
    }
    return Manifest.model_validate(said | fields)


def test_a_trigger_without_a_class_is_not_judged() -> None:
    require_prompts(POLICY, manifest("sks cat", "cat"))
    require_prompts(POLICY, manifest("", None))  # a style
    with pytest.raises(BadInput, match="no class; declare the class: set `class` in its recipe"):
        require_prompts(POLICY, manifest("ohwx"))


def test_a_style_is_asked_nothing_about_a_class() -> None:
    found = prompt_set(POLICY, trigger="", noun="", seeds=(0,))
    assert [(shot.role, shot.prompt) for shot in found] == [
        ("subject", "at night"),
        ("unrelated", "a dog"),
    ]
    prompts = POLICY.prompts.model_copy(update={"subject": ("{trigger}, a {class}",)})
    with pytest.raises(PolicyError, match="add a prompt without it"):
        require_prompts(POLICY.model_copy(update={"prompts": prompts}), manifest(""))


def test_every_prompt_meets_every_seed_and_text_is_judged_by_the_class() -> None:
    found = prompt_set(POLICY, trigger="sks cat", noun="cat", seeds=(3, 5))
    assert [(shot.role, shot.prompt, shot.text, shot.seed) for shot in found] == [
        ("subject", "sks cat at night", "cat at night", 3),
        ("subject", "sks cat at night", "cat at night", 5),
        ("subject", "sks cat, a cat", "cat, a cat", 3),
        ("subject", "sks cat, a cat", "cat, a cat", 5),
        ("class", "a cat", "a cat", 3),
        ("class", "a cat", "a cat", 5),
        ("unrelated", "a dog", "a dog", 3),
        ("unrelated", "a dog", "a dog", 5),
    ]
    assert len({shot.file for shot in found} | {shot.base_file for shot in found}) == 16


def test_an_empty_trigger_leaves_no_gap() -> None:
    assert fill("a {trigger} house on the {class}", trigger="", noun="beach") == (
        "a house on the beach"
    )
