"""The class noun of a subject, such as `cat`, and its relation to trigger and prompts."""

import re
from typing import Annotated

from pydantic import AfterValidator

_ARTICLES = frozenset({"a", "an", "the"})


def _noun(text: str) -> str:
    words = text.split()
    if not words:
        raise ValueError("must not be empty; name the class of the subject, such as cat")
    if words[0].lower() in _ARTICLES:
        rest = " ".join(words[1:]) or "cat"
        raise ValueError(f"{text!r} has an article; write the noun alone: {rest}")
    return " ".join(words)


Noun = Annotated[str, AfterValidator(_noun)]


def phrase(text: str) -> re.Pattern[str]:
    """Return a pattern for these words in sequence, in any case and spacing, as whole words."""
    inner = r"\s+".join(re.escape(word) for word in text.split())
    return re.compile(rf"(?<!\w){inner}(?!\w)", re.IGNORECASE)


def check_trigger(trigger: str, noun: str) -> None:
    """Raise ValueError unless a trigger of several words ends with the class.

    A one-word trigger does not have to contain the class, but must differ from it.
    """
    words, last = trigger.lower().split(), noun.lower().split()
    if not words:
        return
    if words == last:
        raise ValueError(
            f"trigger and class are both {noun!r}; put a rare word before the class, as in "
            f"`trigger: sks {noun}`"
        )
    if len(words) > 1 and words[-len(last) :] != last:
        raise ValueError(
            f"trigger {trigger!r} must end with the class {noun!r}, or be one word; change one of "
            f"them, as in `trigger: sks {noun}`"
        )


def check_prior(prompt: str, noun: str, place: str) -> None:
    """Raise ValueError, which names `place`, unless a prompt contains the class as a word.

    The author of a recipe could otherwise have the adapter judged on a class that it preserves, and
    train without pictures of the class that it changes.
    """
    if not phrase(noun).search(prompt):
        raise ValueError(
            f"{place} {prompt!r} does not contain the class {noun!r}; class pictures must show "
            f"the class, as in `a photo of a {noun}`"
        )
