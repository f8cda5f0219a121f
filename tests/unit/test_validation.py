"""A validation error says what to change, and keeps settings to itself."""

from typing import Annotated, Literal, Self

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from atelier.validation import mistakes, summary

PASSWORD = "hunter2-of-the-database"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern="^[a-z]+$", max_length=20)] = "x"
    weight: Annotated[float, Field(ge=0)] = 1


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = (Part(),)
    pair: Annotated[tuple[int, ...], Field(min_length=2)] = (1, 2)
    mode: Literal["online", "offline"] = "online"
    count: int = 1
    url: str = ""
    named: dict[str, Part] = {}

    @field_validator("url")
    @classmethod
    def _no_database(cls, url: str) -> str:
        if PASSWORD in url:
            raise ValueError(f"cannot parse {url!r}")
        return url

    @model_validator(mode="before")
    @classmethod
    def _together(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("count") == -1:
            raise ValueError(f"count does not go with {value['url']}")
        return value

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.count == 7:
            raise ValueError("seven is taken")
        return self


def refused(value: object) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate(value)
    return caught.value


@pytest.mark.parametrize(
    ("value", "key", "text"),
    [
        ({"modus": "x"}, "modus", "unknown key; did you mean mode?"),
        ({"parts": [{"nam": "x"}]}, "parts.0.nam", "unknown key; did you mean name?"),
        ({"named": {"a": {"zzz": 1}}}, "named.a.zzz", "unknown key; known are name, weight"),
        ({"parts": []}, "parts", "must not be empty"),
        ({"pair": [1]}, "pair", "must have at least 2 items after validation, not 1"),
        ({"mode": "of-line"}, "mode", "must be 'online' or 'offline', is 'of-line'; did you mean "),
        ({"parts": [{"name": "A"}]}, "parts.0.name", "'A' does not match ^[a-z]+$"),
        ({"parts": [{"name": "a" * 21}]}, "parts.0.name", "must have at most 20 characters, is 'a"),
        ({"parts": [{"weight": -1}]}, "parts.0.weight", "must be greater than or equal to 0, is -"),
        ({"count": "x" * 500}, "count", "must be a valid integer, unable to parse string as an "),
        ({"count": 7}, "", "seven is taken"),
        ([], "", "must be a valid dictionary or instance of Whole"),
    ],
)
def test_a_mistake_names_its_key_and_what_it_must_be(value: object, key: str, text: str) -> None:
    (found,) = mistakes(refused(value), model=Whole, values=True)
    assert found.key == key
    assert found.text.startswith(text) and len(found.text) < 200


def test_only_the_root_of_a_mistake_is_named() -> None:
    (found,) = mistakes(refused({"parts": [{"weight": "x"}]}))
    assert (found.key, found.field) == ("parts.0.weight", "parts[0].weight")


@pytest.mark.parametrize(
    "value",
    [
        {"url": f"postgresql://atelier:{PASSWORD}@db/atelier"},
        {"count": -1, "url": f"postgresql://atelier:{PASSWORD}@db/atelier"},
        {"count": PASSWORD},
        {"mode": PASSWORD},
        {"parts": [{"name": PASSWORD}]},
        {"parts": [{"name": PASSWORD[:4] * 6}]},
    ],
)
def test_without_values_no_secret_is_shown(value: dict[str, object]) -> None:
    error = refused(value)
    texts = [one.text for one in mistakes(error, model=Whole)]
    assert texts and all(PASSWORD[:4] not in text for text in texts)
    assert PASSWORD[:4] in str(error)  # what pydantic itself would print
    assert PASSWORD[:4] not in summary(error, values=False)


def test_a_validator_may_name_an_address_but_no_password_in_it() -> None:
    address = f"postgresql://atelier:{PASSWORD}/@:x@db:5432/atelier"
    for values in (True, False):
        (found,) = mistakes(refused({"url": address}), values=values)
        assert found.text == "cannot parse 'postgresql://…@db:5432/atelier'"


def test_a_summary_is_one_line() -> None:
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate({f"key{index}": 1 for index in range(7)})
    assert summary(caught.value).endswith("key4: unknown key; 2 more")
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate_json("{")
    assert summary(caught.value).startswith("Invalid JSON: ")
    assert summary(caught.value, whole="the list").startswith("the list: Invalid JSON: ")
