"""Text from files of others, made safe for a terminal."""

import re

# Control characters but line breaks and tabs, lone surrogates, and changes of the text direction.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Escape the characters that could move the cursor, hide text or fail to be encoded.

    Names of tensors, metadata and captions may contain any character.
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
