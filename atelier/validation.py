"""Validation errors of pydantic as text for people: the key, the expected value, a hint.

Only this module formats them. Callers add where the data came from, and the fix.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

Loc = tuple[int | str, ...]

SHOWN = 5  # mistakes in a summary
_LONGEST = 80  # characters of an input that are shown
_CREDENTIALS = re.compile(r"://[^\s'\"]*@")  # of an address: user and password


@dataclass(frozen=True)
class Mistake:
    """One refused value: `loc` is its path from the root, empty for the whole."""

    loc: Loc
    text: str

    @property
    def key(self) -> str:
        """The path as in a document: `stages.0.train.lr`."""
        return ".".join(map(str, self.loc))

    @property
    def field(self) -> str:
        """The path as in a program: `adapters[0].name`."""
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.loc)
        return "".join(parts).removeprefix(".")


def mistakes(
    error: ValidationError | Sequence[Any],
    *,
    model: type[BaseModel] | None = None,
    values: bool = False,
) -> list[Mistake]:
    """Every mistake of a ValidationError, or of its `errors()`.

    `model` gives hints at misspelt keys. `values` shows the refused values; leave it off for
    settings, which may hold secrets. The message of one of our validators is kept, except user and
    password in addresses.
    """
    found = error.errors() if isinstance(error, ValidationError) else error
    return [_mistake(one, model, values) for one in _deepest(found)]


def summary(error: ValidationError, *, whole: str = "", values: bool = True) -> str:
    """The first mistakes in one line; `whole` names the data for a mistake that has no key."""
    found = mistakes(error, values=values)
    texts = [": ".join(filter(None, (one.key or whole, one.text))) for one in found[:SHOWN]]
    if len(found) > SHOWN:
        texts.append(f"{len(found) - SHOWN} more")
    return "; ".join(texts)


def _deepest(problems: Sequence[Any]) -> list[Any]:
    """Drop errors that follow from another one further in: a list is empty after its items fail."""
    return [
        one
        for one in problems
        if not any(
            len(other["loc"]) > len(one["loc"]) and other["loc"][: len(one["loc"])] == one["loc"]
            for other in problems
        )
    ]


def _mistake(problem: Any, model: type[BaseModel] | None, values: bool) -> Mistake:
    loc: Loc = tuple(part for part in problem["loc"] if part != "[key]")
    given = problem.get("input")
    # "Input should be …", "String should have …"
    text = re.sub(r"^\w+ should ", "must ", problem["msg"]).removeprefix("Value error, ")
    shown = f", is {_short(given)}" if values and not isinstance(given, dict | list | tuple) else ""
    match problem["type"]:
        case "extra_forbidden":
            text = f"unknown key{_hint(str(loc[-1]), _fields(model, loc[:-1]))}"
        case "missing":
            text = "missing, and there is no default"
        case "too_short" if problem["ctx"]["min_length"] == 1:
            text = "must not be empty"
        case "value_error" | "assertion_error" | "json_invalid":
            pass  # a validator's own words, or the parser's
        case "string_pattern_mismatch":
            who = f"{_short(given)} does" if values else "does"
            text = f"{who} not match {problem['ctx']['pattern']}"
        case "literal_error":
            known = re.findall(r"'([^']+)'", text)
            text = f"{text}{shown}{_hint(str(given), known, listed=False)}"
        case _:
            text = f"{text}{shown}"
    return Mistake(loc, _CREDENTIALS.sub("://…@", text))


def _short(given: object) -> str:
    text = repr(given)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _hint(word: str, options: Sequence[str], *, listed: bool = True) -> str:
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known are {', '.join(options)}" if options and listed else ""


def _fields(model: type[BaseModel] | None, loc: Loc) -> list[str]:
    """The keys that the model at `loc` knows; none where that is no model."""
    kind: Any = model
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            kind = field.annotation if field else None
        else:  # a mapping's value, or a tuple's element
            kind = next(iter(get_args(kind)[1 if get_origin(kind) is dict else 0 :]), None)
        kind = _bare(kind)
    known = isinstance(kind, type) and issubclass(kind, BaseModel)
    return list(kind.model_fields) if known else []


def _bare(kind: Any) -> Any:
    """A type without `Annotated` and without `| None`."""
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    return kind
