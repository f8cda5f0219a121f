"""Formatting of pydantic's validation errors: the key, the expected value, a hint.

Only this module formats them. Callers add the source of the data, and the fix.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

Loc = tuple[int | str, ...]

SHOWN = 5  # mistakes in a summary
_LONGEST = 80  # characters of an input that are shown
_CREDENTIALS = re.compile(r"://[^\s'\"]*@")  # user and password in an address


@dataclass(frozen=True)
class Mistake:
    """One invalid value; `loc` is its path from the root, empty for the root itself."""

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
    """Return the mistakes in a ValidationError, or in its `errors()`.

    `model` enables hints for misspelt keys. `values` includes the invalid values; do not use it for
    settings, which may contain secrets. The texts of our validators are kept, except user and
    password in addresses.
    """
    problems = error.errors() if isinstance(error, ValidationError) else error
    return [_mistake(problem, model, values) for problem in _deepest(problems)]


def summary(error: ValidationError, *, whole: str = "", values: bool = True) -> str:
    """Return the first mistakes in one line; `whole` names the data in a mistake without a key."""
    every = mistakes(error, values=values)
    texts = [": ".join(filter(None, (item.key or whole, item.text))) for item in every[:SHOWN]]
    if len(every) > SHOWN:
        texts.append(f"{len(every) - SHOWN} more")
    return "; ".join(texts)


def _deepest(problems: Sequence[Any]) -> list[Any]:
    """Drop errors that follow from a nested one: a list of invalid items counts as empty."""
    return [
        problem
        for problem in problems
        if not any(
            len(other["loc"]) > len(problem["loc"])
            and other["loc"][: len(problem["loc"])] == problem["loc"]
            for other in problems
        )
    ]


def _mistake(problem: Any, model: type[BaseModel] | None, values: bool) -> Mistake:
    loc: Loc = tuple(part for part in problem["loc"] if part != "[key]")
    value = problem.get("input")
    # "Input should be …", "String should have …"
    text = re.sub(r"^\w+ should ", "must ", problem["msg"]).removeprefix("Value error, ")
    shown = f", is {_short(value)}" if values and not isinstance(value, dict | list | tuple) else ""
    match problem["type"]:
        case "extra_forbidden":
            text = f"unknown key{_hint(str(loc[-1]), _fields(model, loc[:-1]))}"
        case "missing":
            text = "missing, and there is no default"
        case "too_short" if problem["ctx"]["min_length"] == 1:
            text = "must not be empty"
        case "value_error" | "assertion_error" | "json_invalid":
            pass  # the text of a validator or the parser
        case "string_pattern_mismatch":
            subject = f"{_short(value)} does" if values else "does"
            text = f"{subject} not match {problem['ctx']['pattern']}"
        case "literal_error":
            known = re.findall(r"'([^']+)'", text)
            text = f"{text}{shown}{_hint(str(value), known, listed=False)}"
        case _:
            text = f"{text}{shown}"
    return Mistake(loc, _CREDENTIALS.sub("://…@", text))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _hint(name: str, options: Sequence[str], *, listed: bool = True) -> str:
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known are {', '.join(options)}" if options and listed else ""


def _fields(model: type[BaseModel] | None, loc: Loc) -> list[str]:
    """Return the keys of the model at `loc`; none if the type there is not a model."""
    kind: Any = model
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = _by_key(kind).get(str(part))
            kind = field.annotation if field else None
        else:  # a mapping's value, or a tuple's element
            kind = next(iter(get_args(kind)[1 if get_origin(kind) is dict else 0 :]), None)
        kind = _bare(kind)
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
    return list(_by_key(kind)) if is_model else []


def _by_key(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a model by their key in a document."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _bare(kind: Any) -> Any:
    """Return a type without `Annotated` and without `| None`."""
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind = next(arg for arg in get_args(kind) if arg is not type(None))
    return kind
