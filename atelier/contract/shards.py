"""Entries by adapter name in shards: a change of one entry costs its shard and not the whole.

A name's shard follows from a hash of the name. The collections here are immutable; a changed one
shares every other shard with the one before. So two states of ten thousand adapters are compared,
written and sent by the shards that differ. A shard is written as JSON text and is named by a digest
of that text, so a shard that is known by name never has to be read again.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_args
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema

PER_SHARD = 64  # names in a shard on average, at most; a quarter of it before shards are merged

Value = TypeVar("Value")


class _Named(Protocol):
    """An entry that belongs to an adapter."""

    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=_Named)


class Shard(dict[str, Value]):
    """Entries by name. A shard is never changed once it is made."""

    __slots__ = ("__weakref__", "digest", "text")

    digest: str  # both unset until the shard is written or was read
    text: bytes  # as JSON


class Shards(Mapping[str, Value]):
    """An immutable mapping by name. The number of shards is a power of two."""

    __slots__ = ("_length", "parts")

    def __init__(self, entries: Mapping[str, Value] | Iterable[tuple[str, Value]] = ()) -> None:
        found = dict(entries)
        count = 1
        while count * PER_SHARD < len(found):
            count *= 2
        parts: tuple[Shard[Value], ...] = tuple(Shard() for _ in range(count))
        for name, value in found.items():
            parts[_place(name, count)][name] = value
        self.parts: Sequence[Shard[Value]] = parts
        self._length: int | None = len(found)

    @classmethod
    def of_parts(cls, parts: Sequence[Shard[Value]]) -> Shards[Value]:
        """The mapping that `parts` make up, each at its place. Nothing of them is read yet."""
        made = cls.__new__(cls)
        made.parts, made._length = parts, None
        return made

    def __getitem__(self, name: str) -> Value:
        return self.parts[_place(name, len(self.parts))][name]

    def __iter__(self) -> Iterator[str]:
        for part in self.parts:
            yield from part

    def __len__(self) -> int:
        if self._length is None:
            self._length = sum(map(len, self.parts))
        return self._length

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Shards):
            return not self.changed(other)
        return dict(self) == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Shards({dict(self)!r})"

    def replaced(self, changes: Mapping[str, Value | None]) -> Shards[Value]:
        """The mapping with some entries changed, None for those that go.

        Shards in which nothing changes are shared, and without any change it is this same object.
        """
        count = len(self.parts)
        parts: dict[int, Shard[Value]] = {}
        length = len(self)
        for name, value in changes.items():
            place = _place(name, count)
            before = parts.get(place, self.parts[place]).get(name)
            if value is before or value == before:
                continue
            part = parts.setdefault(place, Shard(self.parts[place]))
            length += (value is not None) - (before is not None)
            if value is None:
                del part[name]
            else:
                part[name] = value
        if not parts:
            return self
        made = Shards.of_parts(
            tuple(parts.get(place, part) for place, part in enumerate(self.parts))
        )
        if length > count * PER_SHARD or (count > 1 and length < count * PER_SHARD // 4):
            return Shards(dict(made))
        made._length = length
        return made

    def changed(self, since: Shards[Value]) -> set[str]:
        """The names whose entries differ, those that came and those that went among them."""
        if self is since or self.parts is since.parts:
            return set()
        if len(self.parts) != len(since.parts):
            return _differing(dict(self), dict(since))
        found: set[str] = set()
        for part, before in zip(self.parts, since.parts, strict=True):
            if part is not before:
                found |= _differing(part, before)
        return found

    @property
    def sharded(self) -> Shards[Value]:
        """This mapping."""
        return self

    @classmethod
    def of(cls, sharded: Shards[Value]) -> Shards[Value]:
        """That mapping."""
        return sharded

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        (value,) = get_args(source) or (Any,)
        return _schema(cls, dict, handler.generate_schema(dict[str, value]))  # type: ignore[valid-type]


class Versions(Sequence[Entry]):
    """Versions of many adapters, such as those that a replica holds, found by adapter.

    Iteration gives them adapter by adapter. Equal to any sequence that has the same versions of
    each adapter in the same order.
    """

    __slots__ = ("_length", "sharded")

    def __init__(self, versions: Iterable[Entry] = ()) -> None:
        found: dict[str, tuple[Entry, ...]] = {}
        for one in versions:
            found[one.name] = (*found.get(one.name, ()), one)
        self.sharded: Shards[tuple[Entry, ...]] = Shards(found)
        self._length: int | None = None

    @classmethod
    def of(cls, sharded: Shards[tuple[Entry, ...]]) -> Versions[Entry]:
        """The versions that a mapping by adapter holds."""
        made = cls.__new__(cls)
        made.sharded, made._length = sharded, None
        return made

    def named(self, name: str) -> tuple[Entry, ...]:
        """The versions of an adapter; none where it is not there."""
        return self.sharded.get(name, ())

    def replaced(self, changes: Mapping[str, tuple[Entry, ...]]) -> Versions[Entry]:
        """With other versions of some adapters, an empty tuple for those that go."""
        sharded = self.sharded.replaced({name: found or None for name, found in changes.items()})
        return self if sharded is self.sharded else Versions.of(sharded)

    def changed(self, since: Versions[Entry]) -> set[str]:
        """The adapters whose versions differ."""
        return self.sharded.changed(since.sharded)

    def __iter__(self) -> Iterator[Entry]:
        for part in self.sharded.parts:
            for found in part.values():
                yield from found

    def __len__(self) -> int:
        if self._length is None:
            self._length = sum(len(found) for part in self.sharded.parts for found in part.values())
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self)[index]
        at = index if index >= 0 else len(self) + index
        for one in islice(self, at, None) if at >= 0 else ():
            return one
        raise IndexError(index)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Versions):
            return self.sharded == other.sharded
        if isinstance(other, Sequence):
            return self.sharded == Versions(other).sharded
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Versions({tuple(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        (entry,) = get_args(source) or (Any,)
        return _schema(cls, tuple, handler.generate_schema(tuple[entry, ...]))  # type: ignore[valid-type]


class ShardedModel(BaseModel):
    """A model of which one field has entries by adapter name.

    One of few adapters is written as it is. Beyond `PER_SHARD` names it is written as a head, which
    names its shards by digest, and the shards. A new heartbeat then writes the head alone.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    shards: tuple[str, ...] = ()  # in a head: digests of the shards, which hold its entries

    entries: ClassVar[str]  # the name of the field that holds them, Shards or Versions
    shard: ClassVar[TypeAdapter[Any]]  # of the JSON text of a shard, dict[str, Value]

    def split(self) -> tuple[BaseModel, dict[str, bytes]]:
        """The head, and the texts of the shards by digest. No shards: all is in the head."""
        field = getattr(self, self.entries)
        parts = field.sharded.parts
        if len(parts) == 1:
            return self, {}
        for part in parts:
            _write(part, self.shard)
        digests = tuple(part.digest for part in parts)
        head = self.model_copy(update={self.entries: type(field)(), "shards": digests})
        return head, {part.digest: part.text for part in parts}


ModelT = TypeVar("ModelT", bound=ShardedModel)


class ShardPool(Generic[ModelT]):
    """Reads models of one kind. A shard that any of them still holds is not read again."""

    def __init__(self, kind: type[ModelT]) -> None:
        self.kind = kind
        self._known: WeakValueDictionary[str, Shard[Any]] = WeakValueDictionary()

    def join(self, head: ModelT, text: Callable[[str], bytes]) -> ModelT:
        """The model whose head this is; `text` finds a shard's by digest.

        ValueError (pydantic's ValidationError is one) where a text is not that shard. What `text`
        raises is the caller's.
        """
        if not head.shards:
            return head
        return self.with_parts(head, tuple(self.read(one, text) for one in head.shards))

    def with_parts(self, head: ModelT, parts: Sequence[Shard[Any]]) -> ModelT:
        """A head and its shards, or what gives each of these when it is first looked at."""
        field = type(getattr(head, head.entries))
        whole = field.of(Shards.of_parts(parts))
        return head.model_copy(update={head.entries: whole, "shards": ()})

    def read(self, digest: str, text: Callable[[str], bytes]) -> Shard[Any]:
        """A shard by its digest."""
        found = self._known.get(digest)
        if found is None:
            data = text(digest)
            if digest_of(data) != digest:
                raise ValueError(f"shard {digest}: has other content; it was changed or damaged")
            found = Shard(self.kind.shard.validate_json(data))
            found.digest, found.text = digest, data
            self._known[digest] = found
        return found


def digest_of(text: bytes) -> str:
    """A shard's name: 64 bits of its text's SHA-256, in hex."""
    return hashlib.sha256(text).hexdigest()[:16]


def _place(name: str, count: int) -> int:
    return zlib.crc32(name.encode()) & (count - 1)


def _differing(one: Mapping[str, Value], other: Mapping[str, Value]) -> set[str]:
    found = {name for name in other if name not in one}
    for name, value in one.items():
        before = other.get(name)
        if value is not before and value != before:
            found.add(name)
    return found


def _write(part: Shard[Any], adapter: TypeAdapter[Any]) -> None:
    """Give a shard its text. Equal shards have equal texts, whatever the order of their names."""
    if not hasattr(part, "text"):
        ordered = {name: part[name] for name in sorted(part)}
        text = adapter.dump_json(ordered, exclude_defaults=True)
        part.digest, part.text = digest_of(text), text


def _schema(cls: type[Any], plain: Callable[[Any], Any], inner: CoreSchema) -> CoreSchema:
    """Validates what `inner` does, and dumps as that; an instance passes as it is."""

    def read(value: Any, validate: Callable[[Any], Any]) -> Any:
        return value if isinstance(value, cls) else cls(validate(value))

    dumped = core_schema.plain_serializer_function_ser_schema(plain, return_schema=inner)
    return core_schema.no_info_wrap_validator_function(read, inner, serialization=dumped)
