"""YAML reads the same everywhere, and is rewritten without losing what people wrote beside it."""

from typing import Any

import pytest
import yaml  # another reader, of YAML 1.1, as kubectl's and Helm's are
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atelier.data import yaml_text
from atelier.data.yaml_text import YamlError

AMBIGUOUS = [
    *("off", "y", "No", "1:30", "010", "0x1F", "1_000", "2024-01-01", "=", "<<", "~", "null", ""),
    *("1e5", "1e-4", ".5", "+1", "-", "?", "- a", "a: b", "#x", "'", '"', "!x", "&a", "*a", "|"),
    *("%", "@", "`", "{}", "[]", "\ufeff", "a\nb", "a\n", "\n", " a", "a ", "\t", "a\x85b", "\x07"),
]
TEXT = st.text(max_size=8) | st.sampled_from(AMBIGUOUS)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@example({"lr": 1e-05, "long": "word " * 40})
@settings(deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_what_is_written_reads_the_same_in_yaml_1_1_and_1_2(value: dict[str, Any]) -> None:
    text = yaml_text.write(value)
    assert yaml_text.read(text).value == value
    assert yaml.safe_load(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-.inf", float("-inf")),
        ("-7", -7),
        ("True", True),
        ("~", None),
        *((text, text) for text in ("off", "yes", "010", "0x10", "0o17", "1_000", "1:30", "1.2.3")),
        ("2024-01-01", "2024-01-01"),
        ("!!int '0x10'", 16),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = yaml_text.read(f"a: {text}").value["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [", 2),
        ("a: 1\nb: !ours x", 2),
        ("a: !!python/object/apply:os.system [ls]", 1),
        ("a: 1\n---\nb: 2", 2),
        ("a: *nobody", 1),
        ("a: !!int x", None),
        ("a: !!bool x", None),
        ("a: \x00", None),
        ("[" * 100, 1),
    ],
)
def test_text_that_is_not_plain_data_is_refused(text: str, line: int | None) -> None:
    with pytest.raises(YamlError) as caught:
        yaml_text.read(text)
    assert caught.value.line == line and str(caught.value)
    assert yaml_text.mapping(text) == {}


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("a: 1\na: 2\n", "a", 2),
        ("a: {b: 1, c: 2,\n b: 3}\n", "a.b", 2),
        ("a:\n- x: 1\n- x: 1\n  y: 2\n  x: 3\n", "a.1.x", 5),
        ("a: &a {b: 1}\nc:\n  <<: *a\n  <<: *a\n", "c.<<", 4),
    ],
)
def test_a_key_that_is_there_twice_is_named(text: str, key: str, line: int) -> None:
    with pytest.raises(YamlError) as caught:
        yaml_text.read(text)
    assert (str(caught.value), caught.value.line) == (f"{key}: given twice; keep one", line)


def test_a_line_is_that_of_the_deepest_part_that_is_there() -> None:
    found = yaml_text.read("# head\na: &a\n  b:\n    c: 1\nd: [1,\n 2]\ne:\n  <<: *a\n  f: 3\n")
    for loc, line in (
        (("a", "b", "c"), 4),
        (("a", "x"), 2),
        (("d", 1), 6),
        (("d", 7), 5),
        (("e", "f"), 9),
        (("e", "b"), 3),  # where the merged key is written
        (("z",), 2),
        ((), 2),
    ):
        assert found.line(loc) == line, loc
    assert yaml_text.read("# nothing\n").line(("a",)) == 1


OLD = """\
# Who to ask: Ann

adapter: thor-cat   # the cat
version: 3
# tried since Monday
canary:
  version: 4  # the brighter one
  percent: 10
# not above 10 % before June
withdrawn:
  # incident 12
  - version: 2
    reason: "drew dogs"
  # incident 9
  - version: 1
    reason: 'grey'
# a ticket, please
reason: so
# the end
"""


def test_comments_outlive_what_changes_around_them() -> None:
    value = yaml_text.read(OLD).value
    gone = {"version": 3, "reason": "off"}
    new = {
        "adapter": "thor-cat",
        "version": 4,
        "replaces": {"version": 3},
        "withdrawn": [gone, *value["withdrawn"]],
        "reason": "promoted",
    }
    text = yaml_text.write(new, OLD)
    assert yaml_text.read(text).value == new
    assert (
        text
        == """\
# Who to ask: Ann

adapter: thor-cat   # the cat
version: 4
replaces:
  version: 3
# tried since Monday
# not above 10 % before June
withdrawn:
  # incident 12
  - version: 3
    reason: 'off'
  - version: 2
    reason: "drew dogs"
  # incident 9
  - version: 1
    reason: 'grey'
# a ticket, please
reason: promoted
# the end
"""
    )


def test_a_document_with_anchors_is_written_anew() -> None:
    text = "all: &all {a: 1, b: 2}\none:\n  <<: *all\n  c: 3\n"
    for value in ({"one": {"c": 3}}, {"all": {"a": 1}, "one": {"a": 7, "c": 3, "d": "y"}}):
        assert yaml_text.read(yaml_text.write(value, text)).value == value
    with pytest.raises(YamlError):
        yaml_text.write({}, "a: [")
