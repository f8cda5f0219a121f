"""Trigger words and styles: what the user leaves out is filled in, and nothing twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.prompts import PromptError, UnknownStyle, styled, triggered
from tests.gateway import manifest_of

CAT = manifest_of(1)
HAND = manifest_of(1, name="thumbs-up", trigger="thumbs_up gesture")


@pytest.mark.parametrize(
    ("prompt", "sent"),
    [
        ("{trigger} on the beach", "sks cat on the beach"),
        ("{trigger} and {trigger}", "sks cat and sks cat"),
        ("a sks cat on the beach", "a sks cat on the beach"),
        ("A SKS  Cat asleep", "A SKS  Cat asleep"),
        ("a cat on the beach", "a sks cat on the beach"),
        ("a cat and a cat", "a sks cat and a cat"),
        ("Cat!", "sks cat!"),
        ("on the beach", "sks cat, on the beach"),
        ("many cats", "sks cat, many cats"),  # another word than the class
        ("  ", "sks cat"),
    ],
)
def test_trigger_rule(prompt: str, sent: str) -> None:
    assert triggered(prompt, [CAT]) == sent


def test_without_filling_in_only_the_placeholder_is_replaced() -> None:
    assert triggered("a cat on the beach", [CAT], fill=False) == "a cat on the beach"
    assert triggered("{trigger} asleep", [CAT], fill=False) == "sks cat asleep"


def test_two_adapters_each_bring_their_trigger() -> None:
    assert triggered("a cat", [CAT, HAND]) == "thumbs_up gesture, a sks cat"
    assert triggered("{trigger}", [CAT, HAND]) == "sks cat and thumbs_up gesture"


def test_a_placeholder_without_an_adapter_is_an_error_and_a_plain_prompt_is_not() -> None:
    with pytest.raises(PromptError, match="no requested adapter has a trigger"):
        triggered("{trigger} asleep", [])
    assert triggered("a cat", []) == "a cat"


def test_an_adapter_without_trigger_changes_nothing() -> None:
    assert triggered("a cat", [CAT.model_copy(update={"trigger": ""})]) == "a cat"


def test_a_trigger_is_text_and_no_pattern() -> None:
    odd = CAT.model_copy(update={"trigger": r"s\1+ (cat", "class_": "(cat"})
    assert triggered("a (cat on a mat", [odd]) == r"a s\1+ (cat on a mat"


@pytest.mark.parametrize(
    ("trigger", "noun", "sent"),
    [
        ("thorcat", "cat", "a thorcat on the beach"),
        ("sks cat", None, "sks cat, a cat on the beach"),  # the class is not guessed
        ("sks garden gnome", "garden gnome", "sks garden gnome, a cat on the beach"),
    ],
)
def test_the_class_is_the_one_that_was_declared(trigger: str, noun: str | None, sent: str) -> None:
    made = CAT.model_copy(update={"trigger": trigger, "class_": noun})
    assert triggered("a cat on the beach", [made]) == sent


def test_style_wraps_the_prompt() -> None:
    assert styled("a cat", "portrait", [CAT]) == "a cat, close-up"
    assert styled("a cat", None, [CAT]) == "a cat"


def test_style_of_a_later_adapter_is_found() -> None:
    plain = HAND.model_copy(update={"styles": {}})
    assert styled("a cat", "frozen", [plain, CAT]) == "a cat in the snow"


def test_a_style_may_hold_the_trigger() -> None:
    made = CAT.model_copy(update={"styles": {"film": "{prompt}, a film still of {trigger}"}})
    text = styled("at night", "film", [made])
    assert triggered(text, [made]) == "at night, a film still of sks cat"


def test_a_style_without_the_placeholder_is_added_behind() -> None:
    made = CAT.model_copy(update={"styles": {"ink": "drawn in ink"}})
    assert styled("a cat", "ink", [made]) == "a cat, drawn in ink"


def test_unknown_style_names_the_known_ones() -> None:
    with pytest.raises(UnknownStyle, match=r"'sketch'.*available: frozen, portrait"):
        styled("a cat", "sketch", [CAT])
    with pytest.raises(UnknownStyle, match="have no styles"):
        styled("a cat", "sketch", [])


@given(st.text(max_size=60))
def test_filling_in_twice_changes_nothing_more(prompt: str) -> None:
    once = triggered(prompt, [CAT])
    assert "sks cat" in " ".join(once.lower().split())
    assert triggered(once, [CAT]) == once
