"""The prompt set of an evaluation: every prompt of the policy, filled in, with its seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from atelier.data.manifest import Manifest
from atelier.data.policy import Policy, Prompts
from atelier.errors import BadInput, PolicyError

Role = Literal["subject", "class", "unrelated"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

CLASS: Final = "{class}"  # in a prompt of a policy
PICTURES: Final = "pictures"  # the folder beside evaluation.json


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
    def together_file(self) -> str:
        """The path of the picture with the adapter and the policy's companions."""
        return f"{PICTURES}/{self.role}-{self.number}-seed-{self.seed}-together.png"

    @property
    def base_file(self) -> str:
        """The path of the base's picture with the same prompt and seed."""
        return f"{PICTURES}/{self.role}-{self.number}-seed-{self.seed}-base.png"


def require_prompts(policy: Policy, manifest: Manifest) -> None:
    """Raise BadInput if the prompts of the policy cannot be filled in for an adapter.

    An adapter with a trigger needs a class: CLIP has not learnt the trigger, and plain pictures of
    the class show whether the adapter changes them. An adapter with neither (a style) is asked only
    the prompts without `{class}`.
    """
    if manifest.trigger.strip() and not manifest.noun:
        raise BadInput(
            f"adapter {manifest.name}: has the trigger {manifest.trigger!r}, but no class; declare "
            "the class: set `class` in its recipe and train it again, or import its file again "
            "with --class"
        )
    if not manifest.noun and all(CLASS in prompt for prompt in policy.prompts.subject):
        raise PolicyError(
            f"prompts.subject: every prompt has {CLASS}, but adapter {manifest.name} has no class; "
            "add a prompt without it"
        )


def prompt_set(
    policy: Policy, *, trigger: str, noun: str, seeds: Sequence[int]
) -> tuple[PromptCase, ...]:
    """Return the cases of the policy for these seeds, the cases of the subject first.

    Without a class (`noun` is empty), prompts with `{class}` have no cases.
    """
    return tuple(_cases(policy.prompts, trigger, noun, seeds))


def _cases(prompts: Prompts, trigger: str, noun: str, seeds: Sequence[int]) -> Iterator[PromptCase]:
    templates: dict[Role, tuple[str, ...]] = {
        "subject": prompts.subject,
        "class": prompts.class_,
        "unrelated": prompts.unrelated,
    }
    for role, of_role in templates.items():
        for number, template in enumerate(of_role):
            if CLASS in template and not noun:
                continue
            prompt = fill(template, trigger=trigger, noun=noun)
            text = fill(template, trigger=noun, noun=noun)
            for seed in seeds:
                yield PromptCase(role, number, prompt, text, seed)


def fill(template: str, *, trigger: str, noun: str) -> str:
    """Replace `{trigger}` and `{class}` in a template, and collapse white space.

    An empty trigger therefore leaves no double space.
    """
    filled = template.replace("{trigger}", trigger).replace(CLASS, noun)
    return " ".join(filled.split())
