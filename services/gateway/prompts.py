"""Fills in what an adapter's author knows and its user should not have to: trigger words, styles.

The rule for the trigger, in this order:

1. `{trigger}` in the prompt (or in the style's template) stands for the trigger;
2. a prompt that already holds the trigger's words stays as it is;
3. where the prompt names the adapter's class ("a cat on the beach" for `sks cat`), its first
   mention becomes the trigger ("a sks cat on the beach");
4. otherwise the trigger goes in front: "sks cat, on the beach".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from atelier.data.manifest import Manifest
from atelier.errors import BadInput

TRIGGER = "{trigger}"
PROMPT = "{prompt}"


class UnknownStyle(BadInput):
    """A style that no adapter of the request has."""


class PromptError(BadInput):
    """A prompt that cannot be filled in."""


def styled(prompt: str, style: str | None, manifests: Sequence[Manifest]) -> str:
    """The prompt within the template of `style`, from the first adapter that has it."""
    if style is None:
        return prompt
    for manifest in manifests:
        if style in manifest.styles:
            template = manifest.styles[style]
            if PROMPT not in template:
                return f"{prompt}, {template}"
            return template.replace(PROMPT, prompt)
    known = sorted({name for manifest in manifests for name in manifest.styles})
    listed = f"known: {', '.join(known)}" if known else "these adapters have none"
    raise UnknownStyle(f"style {style!r}: there is no such style; {listed}")


def triggered(prompt: str, manifests: Iterable[Manifest], *, fill: bool = True) -> str:
    """The prompt with every adapter's trigger in it; with `fill` off only `{trigger}` is replaced.

    Where several adapters are asked for, `{trigger}` stands for all of theirs.
    """
    manifests = [manifest for manifest in manifests if manifest.trigger.strip()]
    if TRIGGER in prompt:
        if not manifests:
            raise PromptError("prompt: {trigger} needs an adapter that has a trigger; name one.")
        return prompt.replace(TRIGGER, " and ".join(manifest.trigger for manifest in manifests))
    if not fill:
        return prompt
    for manifest in manifests:
        prompt = _with_trigger(prompt, manifest.trigger, manifest.class_prompt or "")
    return prompt


def _with_trigger(prompt: str, trigger: str, class_prompt: str) -> str:
    if _words(trigger).search(prompt):
        return prompt
    class_word = class_of(trigger, class_prompt)
    if class_word:
        # a function, because a trigger may hold a backslash
        prompt, found = _words(class_word).subn(lambda _: trigger, prompt, count=1)
        if found:
            return prompt
    return f"{trigger}, {prompt}" if prompt.strip() else trigger


def class_of(trigger: str, class_prompt: str) -> str:
    """What kind of thing the trigger is: its longest ending that the class prompt also names.

    `sks cat` with "a photo of a cat" is a `cat`. Empty where they share nothing.
    """
    words = trigger.split()
    for start in range(len(words)):
        ending = " ".join(words[start:])
        if class_prompt and _words(ending).search(class_prompt):
            return ending
    return ""


def _words(text: str) -> re.Pattern[str]:
    """These words in a row, whatever their case and spacing, not inside longer words."""
    inner = r"\s+".join(re.escape(word) for word in text.split())
    return re.compile(rf"(?<!\w){inner}(?!\w)", re.IGNORECASE)
