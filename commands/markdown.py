"""Markdown with untrusted text: none of its characters is interpreted as markup."""

import re
from collections.abc import Iterable, Sequence
from html import escape

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&:@$^=\"'])")


def plain(text: object) -> str:
    """One line of literal text, without markup, links, mentions or HTML.

    Every special character is written as a numeric character reference, which no renderer takes for
    markup or for an address to link to.
    """
    line = " ".join(str(text).split())
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", line)


def code(text: object) -> str:
    """Literal text as code. Character references work in it, so it may hold any text."""
    return f"<code>{plain(text)}</code>"


def link(text: object, url: str) -> str:
    """A link with literal text."""
    return f'<a href="{escape(url)}">{plain(text)}</a>'


def rows(heads: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A table. Cells are Markdown."""
    lines = [heads, ["---"] * len(heads), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
