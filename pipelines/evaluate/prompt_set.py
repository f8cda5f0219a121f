"""The prompt set of an evaluation: every prompt of the policy, filled in, with its seeds."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from atelier.data.manifest import Manifest
from atelier.data.policy import Policy, Prompts

Role = Literal["subject", "class", "unrelated"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

PICTURES: Final = "pictures"  # the folder beside evaluation.json

_OPENING = re.compile(
    r"^(?:(?:a|an|the)\s+)?(?:photo|picture|image|drawing|painting)\s+of\s+(?:(?:a|an|the)\s+)?",
    re.I,
)


@dataclass(frozen=True)
class PromptCase:
    """A prompt and seed, rendered from the same noise with the adapter and without it."""

    role: Role
    number: int  # of the prompt within its role, from 0
    prompt: str
    text: str  # for CLIP, with the class in place of the trigger, which CLIP has not learnt
    seed: int

    @property
    def file(self) -> str:
        """The path of the adapter's picture relative to evaluation.json."""
        return f"{PICTURES}/{self.role}-{self.number}-seed-{self.seed}.png"

    @property
    def base_file(self) -> str:
        """The path of the base's picture with the same prompt and seed."""
        return f"{PICTURES}/{self.role}-{self.number}-seed-{self.seed}-base.png"


def class_noun(manifest: Manifest) -> str:
    """Return the class of the subject: "cat" for the class prompt "a photo of a cat".

    Without a class prompt, return the trigger without its first word ("cat" for "sks cat"), because
    DreamBooth's triggers start with a rare token. Return a trigger of one word unchanged.
    """
    if manifest.class_prompt:
        return _OPENING.sub("", manifest.class_prompt).strip()
    return manifest.trigger.partition(" ")[2].strip() or manifest.trigger.strip()


def prompt_set(
    policy: Policy, *, trigger: str, noun: str, seeds: Sequence[int]
) -> tuple[PromptCase, ...]:
    """Return the cases of the policy for these seeds, the cases of the subject first."""
    return tuple(_cases(policy.prompts, trigger, noun, seeds))


def _cases(prompts: Prompts, trigger: str, noun: str, seeds: Sequence[int]) -> Iterator[PromptCase]:
    templates: dict[Role, tuple[str, ...]] = {
        "subject": prompts.subject,
        "class": prompts.class_,
        "unrelated": prompts.unrelated,
    }
    for role, of_role in templates.items():
        for number, template in enumerate(of_role):
            prompt = fill(template, trigger=trigger, noun=noun)
            text = fill(template, trigger=noun, noun=noun)
            for seed in seeds:
                yield PromptCase(role, number, prompt, text, seed)


def fill(template: str, *, trigger: str, noun: str) -> str:
    """Replace `{trigger}` and `{class}` in a template, and collapse white space.

    An empty trigger therefore leaves no double space.
    """
    filled = template.replace("{trigger}", trigger).replace("{class}", noun)
    return " ".join(filled.split())
