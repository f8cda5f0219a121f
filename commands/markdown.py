"""Markdown that contains untrusted text, escaped so that no character acts as markup."""

import re
from collections.abc import Iterable, Sequence
from html import escape

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&:@$^=\"'])")


def plain(text: object) -> str:
    """Return the text as one literal line, without markup, links, mentions or HTML.

    Every special character becomes a numeric character reference, which renderers do not interpret
    as markup or as part of a URL.
    """
    line = " ".join(str(text).split())
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", line)


def code(text: object) -> str:
    """Return the text as inline code.

    It uses `<code>`, because backticks do not interpret character references.
    """
    return f"<code>{plain(text)}</code>"


def link(text: object, url: str) -> str:
    """Return an HTML link with literal text."""
    return f'<a href="{escape(url)}">{plain(text)}</a>'


def rows(heads: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. Heads and cells are Markdown and are not escaped."""
    lines = [heads, ["---"] * len(heads), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
