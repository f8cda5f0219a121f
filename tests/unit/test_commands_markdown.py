"""Text from outside stays text, whatever it would like to be."""

import html

from hypothesis import given
from hypothesis import strategies as st

from commands.markdown import code, link, plain, rows

NASTY = [
    "<script>alert(1)</script>",
    "a | b\n| --- |",
    "[click](javascript:alert(1))",
    "`code` **bold** _it_ ~~no~~ # head",
    "@everyone closes #1 https://evil.example www.evil.example",
    "&lt;b&gt; $x$ \\| ![](https://evil.example/x.png)",
]


@given(st.text() | st.sampled_from(NASTY))
def test_a_reader_sees_the_text_and_nothing_is_made_of_it(text: str) -> None:
    for written in (plain(text), code(text).removeprefix("<code>").removesuffix("</code>")):
        assert html.unescape(written) == " ".join(text.split()) or "\0" in text
        bare = written.replace("&#", "").replace(";", "")
        assert not set(bare) & set("<>|`*_[]()!@#:.&\\~$\"'\n\r")


def test_a_table_has_the_cells_it_was_given() -> None:
    made = rows(("a", "b"), [(plain("x|y"), code("`z`"))])
    assert made.splitlines() == ["| a | b |", "| --- | --- |", made.splitlines()[2]]
    assert made.splitlines()[2].count("|") == 3


def test_a_link_leads_where_it_is_told_to_and_nowhere_else() -> None:
    made = link("<b>", 'https://ci.example/runs/7?a=1&b="><script>')
    assert made.startswith(
        '<a href="https://ci.example/runs/7?a=1&amp;b=&quot;&gt;&lt;script&gt;">'
    )
    assert made.count("<") == made.count(">") == 2
