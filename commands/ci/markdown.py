"""Markdown that stays what it is meant to be, whatever text from outside is put into it."""

import re
from collections.abc import Iterable, Sequence
from html import escape

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&:@$^=\"'])")


def plain(text: object) -> str:
    """Text that a reader sees as it is: one line, without markup, links, mentions or HTML.

    Every character that could mean something is written as a reference to its number, which no
    renderer takes for markup or for an address to link to.
    """
    line = " ".join(str(text).split())
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", line)


def code(text: object) -> str:
    """Text in the typeface of commands; references count in it, so it may hold anything too."""
    return f"<code>{plain(text)}</code>"


def link(text: object, url: str) -> str:
    """Text that leads somewhere."""
    return f'<a href="{escape(url)}">{plain(text)}</a>'


def rows(heads: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown already."""
    lines = [heads, ["---"] * len(heads), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
