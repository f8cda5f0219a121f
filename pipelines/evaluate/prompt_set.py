"""Which pictures a verdict asks for: the policy's prompts, filled in, times its seeds."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from atelier.data.manifest import Manifest
from atelier.data.policy import Policy

Role = Literal["subject", "unrelated"]

PICTURES: Final = "pictures"  # the folder beside evaluation.json

_OPENING = re.compile(
    r"^(?:(?:a|an|the)\s+)?(?:photo|picture|image|drawing|painting)\s+of\s+(?:(?:a|an|the)\s+)?",
    re.I,
)


@dataclass(frozen=True)
class PromptCase:
    """One picture to make, once with the adapter and once without it, from the same noise."""

    role: Role
    number: int  # of the prompt within its role, from 0
    prompt: str
    text: str  # what CLIP compares the picture with: the trigger means nothing to it
    seed: int

    @property
    def file(self) -> str:
        """Where the adapter's picture lies beside evaluation.json."""
        return f"{PICTURES}/{self.role}-{self.number}-seed-{self.seed}.png"

    @property
    def base_file(self) -> str:
        """Where the base's picture of the same prompt and seed lies."""
        return f"{PICTURES}/{self.role}-{self.number}-seed-{self.seed}-base.png"


def class_noun(manifest: Manifest) -> str:
    """What kind of thing the trigger names: "cat" for the class prompt "a photo of a cat".

    Without a class prompt it is the trigger less its made-up first word ("sks cat"), as DreamBooth
    writes triggers; a trigger of one word stands for itself.
    """
    if manifest.class_prompt:
        return _OPENING.sub("", manifest.class_prompt).strip()
    return manifest.trigger.partition(" ")[2].strip() or manifest.trigger.strip()


def prompt_set(policy: Policy, *, trigger: str, noun: str) -> tuple[PromptCase, ...]:
    """Every picture of the policy for an adapter with this trigger, subjects first."""
    return tuple(_shots(policy, trigger, noun))


def _shots(policy: Policy, trigger: str, noun: str) -> Iterator[PromptCase]:
    roles: tuple[Role, ...] = ("subject", "unrelated")
    for role in roles:
        for number, template in enumerate(getattr(policy.prompts, role)):
            prompt = fill(template, trigger=trigger, noun=noun)
            text = fill(template, trigger=noun, noun=noun)
            for seed in policy.seeds:
                yield PromptCase(role, number, prompt, text, seed)


def fill(template: str, *, trigger: str, noun: str) -> str:
    """The prompt of a template; an empty trigger (a style without one) leaves no gap."""
    filled = template.replace("{trigger}", trigger).replace("{class}", noun)
    return " ".join(filled.split())
