"""Complete a prompt with the style and the trigger words of its adapters.

The first of these rules that applies is used:

1. `{trigger}` in the prompt, or in the style's template, is replaced by the trigger words.
2. A prompt that already contains the trigger words stays unchanged.
3. If the prompt contains the class of the adapter ("a cat on the beach" for `sks cat`), the first
   occurrence of the class is replaced by the trigger words ("a sks cat on the beach").
4. Otherwise the trigger words are inserted at the start: "sks cat, on the beach".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from atelier.data.manifest import Manifest
from atelier.data.noun import phrase
from atelier.errors import BadInput

TRIGGER = "{trigger}"
PROMPT = "{prompt}"


class UnknownStyle(BadInput):
    """No adapter of the request has the requested style."""


class PromptError(BadInput):
    """The prompt contains `{trigger}`, but no adapter of the request has a trigger."""


def styled(prompt: str, style: str | None, manifests: Sequence[Manifest]) -> str:
    """Insert the prompt into the template of `style`, from the first adapter that has this style.

    Raises UnknownStyle if no adapter has this style.
    """
    if style is None:
        return prompt
    for manifest in manifests:
        if style in manifest.styles:
            template = manifest.styles[style]
            if PROMPT not in template:
                return f"{prompt}, {template}"
            return template.replace(PROMPT, prompt)
    names = sorted({name for manifest in manifests for name in manifest.styles})
    available = (
        f"available: {', '.join(names)}"
        if names
        else "the requested adapters have no styles; leave style out"
    )
    raise UnknownStyle(f"style {style!r}: no such style; {available}")


def triggered(prompt: str, manifests: Iterable[Manifest], *, fill: bool = True) -> str:
    """Insert the trigger words of every adapter. Without `fill`, only `{trigger}` is replaced.

    If there are several adapters, `{trigger}` is replaced by all their triggers, joined by "and".
    Raises PromptError if the prompt contains `{trigger}` but no adapter has a trigger.
    """
    manifests = [manifest for manifest in manifests if manifest.trigger.strip()]
    if TRIGGER in prompt:
        if not manifests:
            raise PromptError(
                "prompt: contains {trigger}, but no requested adapter has a trigger; "
                "remove it, or name an adapter with a trigger"
            )
        return prompt.replace(TRIGGER, " and ".join(manifest.trigger for manifest in manifests))
    if not fill:
        return prompt
    for manifest in manifests:
        prompt = _with_trigger(prompt, manifest.trigger, manifest.noun)
    return prompt


def _with_trigger(prompt: str, trigger: str, noun: str) -> str:
    if phrase(trigger).search(prompt):
        return prompt
    if noun:
        # a function, because a trigger may contain a backslash
        prompt, replacements = phrase(noun).subn(lambda _: trigger, prompt, count=1)
        if replacements:
            return prompt
    return f"{trigger}, {prompt}" if prompt.strip() else trigger
