"""YAML that people write, read so that every mistake is named where it was made.

PyYAML alone reads YAML 1.1: `1e-4` is text there, `off` is false, `010` is eight, `1:30` is ninety,
and of two equal keys the last silently wins. Here numbers and booleans are YAML 1.2's decimal ones,
and a key given twice is an error.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from atelier.errors import BadInput

Model = TypeVar("Model", bound=BaseModel)
Loc = Sequence[int | str]


class _Loader(yaml.SafeLoader):
    """Safe YAML with 1.2's scalars and without duplicate keys."""


_REPLACED = (":bool", ":float", ":int")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith(_REPLACED)]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?((\.\d+|\d+\.\d*)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|nan))$", re.I),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9]\d*)$"), list("-+0123456789")
)


class _Dumper(yaml.SafeDumper):
    """Safe YAML in which text that 1.1 or 1.2 would take for something else is quoted."""


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, ()), *found]
    for first, found in _Loader.yaml_implicit_resolvers.items()
}

_BREAKS = re.compile("[\\x85\\u2028\\u2029]")  # line breaks to YAML 1.1, which folds them plain


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _BREAKS.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump(value: Any) -> str:
    """Plain data as YAML that `load`, and any other reader, gives back as it was."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def load(path: Path, model: type[Model], error: type[BadInput]) -> Model:
    """The document at `path` as a `model`; `error` lists every mistake with its line and path."""
    return parse(_read(path, error), path, model, error)


def parse(text: str, path: Path, model: type[Model], error: type[BadInput]) -> Model:
    """The same of a document that was read elsewhere; `path` names it in errors."""
    try:
        node = yaml.compose(text, _Loader)
        value = _Loader(text).get_single_data() if node is not None else {}
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise error(f"{path}{line}: not valid YAML: {problem.problem}") from problem
    except (yaml.YAMLError, RecursionError) as problem:
        raise error(f"{path}: not valid YAML: {problem}") from problem
    if not isinstance(value, dict):
        raise error(f"{path}: must be a mapping (`key: value` lines), is a {type(value).__name__}")
    _refuse_doubles(path, node, (), error, set())
    try:
        return model.model_validate(value)
    except ValidationError as problem:
        told = [_tell(path, node, model, one) for one in _deepest(problem.errors())]
        raise error("\n".join(told)) from problem


def _read(path: Path, error: type[BadInput]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, _names(path.parent), n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise error(f"{path}: no such file{hint}") from None
    except IsADirectoryError:
        inside = [name for name in _names(path) if name.endswith((".yaml", ".yml"))]
        hint = f"; did you mean {path / inside[0]}?" if len(inside) == 1 else ""
        raise error(f"{path}: is a folder, not a file{hint}") from None
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not text in UTF-8 ({problem.reason})") from problem


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def _refuse_doubles(
    path: Path, node: yaml.Node | None, loc: Loc, error: type[BadInput], visited: set[int]
) -> None:
    """Raise where a mapping has a key twice; a node that aliases repeat is visited once."""
    if id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                place = f"{path}:{key.start_mark.line + 1}: {_dotted((*loc, key.value))}"
                raise error(f"{place}: given twice; keep one")
            seen.add(key.value)
            _refuse_doubles(path, value, (*loc, key.value), error, visited)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _refuse_doubles(path, value, (*loc, index), error, visited)


def _deepest(problems: Sequence[Any]) -> list[Any]:
    """Without those that only follow from another one further in (a list emptied by its errors)."""
    return [
        one
        for one in problems
        if not any(
            len(other["loc"]) > len(one["loc"]) and other["loc"][: len(one["loc"])] == one["loc"]
            for other in problems
        )
    ]


def _tell(path: Path, node: yaml.Node | None, model: type[BaseModel], problem: Any) -> str:
    """One mistake: `file:line: key.path: what was expected`."""
    loc: Loc = [part for part in problem["loc"] if part != "[key]"]
    place = f"{path}:{_line(node, loc)}: {_dotted(loc)}" if loc else f"{path}"
    kind, given = problem["type"], problem["input"]
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    match kind:
        case "extra_forbidden":
            return f"{place}: unknown key{_suggest(str(loc[-1]), _fields(model, loc[:-1]))}"
        case "missing":
            return f"{place}: missing, and there is no default"
        case "too_short":
            return f"{place}: must not be empty"
        case "value_error":
            return f"{place}: {text}"
        case "string_pattern_mismatch":
            return f"{place}: {given!r} does not match {problem['ctx']['pattern']}"
        case "literal_error":
            known = re.findall(r"'([^']+)'", text)
            return (
                f"{place}: must be {text}, is {given!r}{_suggest(str(given), known, listed=False)}"
            )
        case _:
            is_plain = not isinstance(given, dict | list | tuple)
            return f"{place}: must be {text}{f', is {given!r}' if is_plain else ''}"


def _suggest(word: str, options: Sequence[str], *, listed: bool = True) -> str:
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known are {', '.join(options)}" if options and listed else ""


def _dotted(loc: Loc) -> str:
    return ".".join(map(str, loc))


def _line(node: yaml.Node | None, loc: Loc) -> int:
    """The line of the deepest node of `loc` that the document has, counted from 1."""
    line = node.start_mark.line if node is not None else 0
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            entry = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if entry is None:
                break
            line, node = entry[0].start_mark.line, entry[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return int(line) + 1


def _fields(model: type[BaseModel], loc: Loc) -> list[str]:
    """The keys that the model at `loc` knows."""
    kind: Any = model
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            kind = field.annotation if field else None
        else:  # a mapping's value, or a tuple's element
            kind = get_args(kind)[1 if get_origin(kind) is dict else 0]
        kind = _bare(kind)
    known = isinstance(kind, type) and issubclass(kind, BaseModel)
    return list(kind.model_fields) if known else []


def _bare(kind: Any) -> Any:
    """A type without `Annotated` and without `| None`."""
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
    return kind
