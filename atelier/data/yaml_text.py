"""Reading of YAML text with positions, and writing that keeps comments.

Scalars follow the core schema of YAML 1.2, but numbers are only decimal: `1e-4` is a number; `off`
and `1:30` are text. `010`, `0x10` and `1_000` are text, because other readers interpret them
differently. A date is text. A duplicate key is an error. YAML 1.1 (kubectl, Helm) and 1.2 read
written text alike.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import CommentMark, MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.resolver import VersionedResolver, implicit_resolvers
from ruamel.yaml.tokens import CommentToken

Loc = tuple[str, ...]  # keys and indices from the document's root
Resolvers = dict[str, list[tuple[str, Any]]]  # tag and pattern, by first character

WIDTH = 100  # characters after which a line is broken, if possible
DEPTH = 50  # of nested collections; scanning time grows with its square
_SCHEMA = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
)
_BREAKS = re.compile("[\\x85\\u2028\\u2029]")  # line breaks in YAML 1.1 only


class YamlError(ValueError):
    """Text that is not one document of plain data; `line` counts from 1, None if unknown."""

    def __init__(self, text: str, line: int | None = None):
        super().__init__(text)
        self.line = line


@dataclass(frozen=True)
class Document:
    """The plain data of a document; `value` is None if it is empty."""

    value: Any
    _root: Node | None

    @property
    def is_empty(self) -> bool:
        """Whether the text has only comments."""
        return self._root is None

    def line(self, loc: Sequence[int | str]) -> int:
        """Return the line, counted from 1, of the deepest part of `loc` in the document."""
        if self._root is None:
            return 1
        path, marks = tuple(map(str, loc)), dict(_marks(self._root))
        candidates = (marks.get(path[:depth]) for depth in range(len(path), 0, -1))
        mark = next((m for m in candidates if m is not None), self._root.start_mark)
        return int(mark.line) + 1


def _patterns(resolvers: Sequence[tuple[str, Any, Sequence[str]]]) -> Resolvers:
    resolved: Resolvers = {}
    for tag, pattern, first in resolvers:
        for character in first:
            resolved.setdefault(character, []).append((tag, pattern))
    return resolved


_CORE = [
    (f"tag:yaml.org,2002:{name}", re.compile(rf"(?:{pattern})\Z"), first)
    for name, pattern, first in _SCHEMA
]
_YAML_1_1 = [
    (tag, pattern, first) for versions, tag, pattern, first in implicit_resolvers
    if (1, 1) in versions
]  # fmt: skip


class _Reading(VersionedResolver):
    versioned_resolver = _patterns(_CORE)


class _Writing(VersionedResolver):
    """The patterns of both YAML versions: text that looks like another type is quoted."""

    versioned_resolver = _patterns([*_CORE, *_YAML_1_1])


class _Representer(RoundTripRepresenter):
    """Writes numbers and text that YAML 1.1 and 1.2 read alike."""

    def represent_float(self, number: float) -> ScalarNode:
        """Write a point before an exponent, which YAML 1.1 requires."""
        node = super().represent_float(number)
        if "." not in node.value:
            node.value = node.value.replace("e", ".0e")
        return node

    def represent_str(self, text: str) -> ScalarNode:
        """Use double quotes for characters that YAML 1.1 folds as line breaks."""
        style = '"' if _BREAKS.search(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Representer.add_representer(float, _Representer.represent_float)
_Representer.add_representer(str, _Representer.represent_str)


def read(text: str) -> Document:
    """Parse the only document of `text`, and resolve anchors and merge keys.

    Raises YamlError for a syntax error, a duplicate key, a tag of a non-plain type, or a second
    document.
    """
    reader = YAML(typ="safe", pure=True)
    reader.Resolver, reader.max_depth = _Reading, DEPTH
    reader.composer.warn_double_anchors = False  # YAML lets the last one win
    node = None
    try:
        node = reader.compose(text)
        value = None if node is None else reader.constructor.construct_document(node)
    except DuplicateKeyError as error:
        mark = error.problem_mark
        loc = next(loc for loc, other in _marks(node) if other.index == mark.index)
        raise YamlError(f"{'.'.join(loc)}: given twice; keep one", mark.line + 1) from error
    except MaxDepthExceededError as error:
        text = f"not valid YAML here: more than {DEPTH} levels deep; nest it less"
        raise YamlError(text, error.problem_mark.line + 1) from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise YamlError(f"not valid YAML: {error.problem}", line) from error
    except (YAMLError, RecursionError) as error:
        raise YamlError(f"not valid YAML: {error}") from error
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # a value that does not match its explicit tag: `!!int x`
        raise YamlError(f"not valid YAML: {type(error).__name__}: {error}") from error
    return Document(value, node)


def mapping(text: str | bytes | None) -> dict[str, Any]:
    """Return the mapping in `text`; empty if the text is invalid or not a mapping."""
    try:
        value = read(text.decode() if isinstance(text, bytes) else text or "").value
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _marks(node: Node | None, loc: Loc = (), visited: set[int] | None = None) -> Iterator[Any]:
    """Yield each key and element with its mark.

    The content of an anchor is yielded once, at its definition.
    """
    visited = set() if visited is None else visited
    if id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, MappingNode):
        for key, value in node.value:
            yield (*loc, str(key.value)), key.start_mark
            yield from _marks(value, (*loc, str(key.value)), visited)
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            yield (*loc, str(index)), value.start_mark
            yield from _marks(value, (*loc, str(index)), visited)


def write(value: Mapping[str, Any], over: str = "") -> str:
    """Return plain data as YAML.

    `over` is the text to replace. Its keys keep their order, comments and style; a comment on the
    line of a removed key is removed. A text with anchors is rewritten without comments. Raises
    YamlError if `over` is invalid.
    """
    if isinstance(read(over).value, dict) and not _has_aliases(over):
        document = _round_trip(_Reading).load(over)
        _update(document, value)
        writer = _round_trip(_Writing)
        if dash := re.search(r"^( *)- ", over, re.MULTILINE):
            writer.indent(sequence=len(dash[1]) + 2, offset=len(dash[1]))
        text = _dumped(writer, document)
        if read(text).value == value:  # a safeguard against misplaced comments
            return text
    return _dumped(_round_trip(_Writing), dict(value))


def _has_aliases(text: str) -> bool:
    """Return whether a text repeats anchors; ruamel raises KeyError on edits of such parts."""
    return any(isinstance(event, AliasEvent) for event in YAML(typ="safe", pure=True).parse(text))


def _round_trip(resolver: type[VersionedResolver]) -> YAML:
    yaml = YAML()
    yaml.Resolver, yaml.Representer = resolver, _Representer
    yaml.preserve_quotes = True
    yaml.width = WIDTH
    return yaml


def _dumped(writer: YAML, value: Any) -> str:
    stream = io.StringIO()
    writer.dump(value, stream)
    return stream.getvalue()


def _update(target: CommentedMap, wanted: Mapping[str, Any]) -> None:
    """Make a mapping equal to `wanted`, changing only the differences."""
    for key in [key for key in target if key not in wanted]:
        lines, before = _take_lines(target, key), _before(target, key)
        del target[key]
        _put_lines(target, before, lines)
    for position, (key, value) in enumerate(wanted.items()):
        old = target.get(key)
        if isinstance(old, CommentedMap) and isinstance(value, Mapping):
            _update(old, value)
        elif isinstance(old, CommentedSeq) and isinstance(value, list | tuple):
            lines = _take_lines(target, key)
            _update_items(old, value)
            _put_lines(target, key, lines)
        elif key not in target:
            target.insert(position, key, _commented(value))
            _put_lines(target, key, _take_lines(target, _before(target, key)))
        elif old != value:
            target[key] = value


def _update_items(target: CommentedSeq, wanted: Sequence[Any]) -> None:
    """Make a sequence equal to `wanted`; unchanged items keep their comments."""
    for index in reversed(range(len(target))):
        if target[index] not in wanted:
            del target[index]
    for index, value in enumerate(wanted):
        if index >= len(target) or target[index] != value:
            target.insert(index, _commented(value))
    del target[len(wanted) :]


def _commented(value: Any) -> Any:
    if isinstance(value, Mapping):
        return CommentedMap({key: _commented(item) for key, item in value.items()})
    return CommentedSeq(map(_commented, value)) if isinstance(value, list | tuple) else value


def _before(target: CommentedMap, key: str) -> str | None:
    keys = list(target)
    index = keys.index(key)
    return keys[index - 1] if index else None


def _take_lines(target: CommentedMap, key: str | None) -> str:
    """Remove and return the comment lines between an entry and the next one.

    ruamel stores them with the entry's last leaf, after the comment on the leaf's line.
    """
    if key is None:
        return ""
    comments, slot = _leaf(target, key)
    if comments[slot] is None:
        return ""
    own, newline, lines = comments[slot].value.partition("\n")
    comments[slot].value = own + newline
    return str(lines)


def _put_lines(target: CommentedMap, key: str | None, lines: str) -> None:
    """Add comment lines after an entry."""
    if key is None or not lines:
        return
    comments, slot = _leaf(target, key)
    if comments[slot] is None:
        comments[slot] = CommentToken(f"\n{lines}", CommentMark(0))
    else:
        comments[slot].value += lines


def _leaf(target: CommentedMap | CommentedSeq, key: Any) -> tuple[list[Any], int]:
    """Return the comments of an entry's last leaf, and the slot of the trailing comment."""
    value = target[key]
    if isinstance(value, CommentedMap | CommentedSeq) and value and not value.fa.flow_style():
        is_map = isinstance(value, CommentedMap)
        return _leaf(value, next(reversed(value)) if is_map else len(value) - 1)
    comments: list[Any] = target.ca.items.setdefault(key, [None, None, None, None])
    return comments, 2 if isinstance(target, CommentedMap) else 0
