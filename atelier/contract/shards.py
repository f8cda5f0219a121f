"""Collections by adapter name, split into shards, so that a change affects only its shard.

A hash of the name gives the shard. The collections are immutable; a changed one shares the
unchanged shards with the previous one. So two states of ten thousand adapters are compared, written
and sent by the shards that differ. A shard is written as JSON and named by the digest of its text,
so a shard that was read is never read again.
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

PER_SHARD = 64  # largest average of names per shard; below a quarter, shards are merged

Value = TypeVar("Value")


class _Named(Protocol):
    """An entry that belongs to an adapter."""

    @property
    def name(self) -> str:
        """The adapter's name."""


Entry = TypeVar("Entry", bound=_Named)


class Shard(dict[str, Value]):
    """Entries by name; immutable once created."""

    __slots__ = ("__weakref__", "digest", "text")

    digest: str  # both unset until the shard is written or read
    text: bytes  # as JSON


class Shards(Mapping[str, Value]):
    """An immutable mapping by name. The number of shards is a power of two."""

    __slots__ = ("_length", "parts")

    def __init__(self, entries: Mapping[str, Value] | Iterable[tuple[str, Value]] = ()) -> None:
        by_name = dict(entries)
        count = 1
        while count * PER_SHARD < len(by_name):
            count *= 2
        parts: tuple[Shard[Value], ...] = tuple(Shard() for _ in range(count))
        for name, value in by_name.items():
            parts[_place(name, count)][name] = value
        self.parts: Sequence[Shard[Value]] = parts
        self._length: int | None = len(by_name)

    @classmethod
    def of_parts(cls, parts: Sequence[Shard[Value]]) -> Shards[Value]:
        """Return the mapping of `parts`, in order, without reading them."""
        mapping = cls.__new__(cls)
        mapping.parts, mapping._length = parts, None
        return mapping

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
        """Return the mapping with changed entries; None removes one.

        Unchanged shards are shared. Without any change, returns this object.
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
        result = Shards.of_parts(
            tuple(parts.get(place, part) for place, part in enumerate(self.parts))
        )
        if length > count * PER_SHARD or (count > 1 and length < count * PER_SHARD // 4):
            return Shards(dict(result))
        result._length = length
        return result

    def changed(self, since: Shards[Value]) -> set[str]:
        """Return the names whose entries differ, including added and removed ones."""
        if self is since or self.parts is since.parts:
            return set()
        if len(self.parts) != len(since.parts):
            return _differing(dict(self), dict(since))
        names: set[str] = set()
        for part, before in zip(self.parts, since.parts, strict=True):
            if part is not before:
                names |= _differing(part, before)
        return names

    @property
    def sharded(self) -> Shards[Value]:
        """This mapping; `Versions` has a property of the same name."""
        return self

    @classmethod
    def of(cls, sharded: Shards[Value]) -> Shards[Value]:
        """Return `sharded`; `Versions` has a method of the same name."""
        return sharded

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        (value,) = get_args(source) or (Any,)
        return _schema(cls, dict, handler.generate_schema(dict[str, value]))  # type: ignore[valid-type]


class Versions(Sequence[Entry]):
    """The versions of many adapters, for example in a replica, with look-up by adapter.

    Iteration goes adapter by adapter. The collection equals any sequence that has the same versions
    of each adapter in the same order.
    """

    __slots__ = ("_length", "sharded")

    def __init__(self, versions: Iterable[Entry] = ()) -> None:
        by_name: dict[str, tuple[Entry, ...]] = {}
        for entry in versions:
            by_name[entry.name] = (*by_name.get(entry.name, ()), entry)
        self.sharded: Shards[tuple[Entry, ...]] = Shards(by_name)
        self._length: int | None = None

    @classmethod
    def of(cls, sharded: Shards[tuple[Entry, ...]]) -> Versions[Entry]:
        """Return the versions in a mapping by adapter."""
        versions = cls.__new__(cls)
        versions.sharded, versions._length = sharded, None
        return versions

    def named(self, name: str) -> tuple[Entry, ...]:
        """Return the versions of an adapter; none if it is absent."""
        return self.sharded.get(name, ())

    def replaced(self, changes: Mapping[str, tuple[Entry, ...]]) -> Versions[Entry]:
        """Return the collection with changed adapters; an empty tuple removes one."""
        sharded = self.sharded.replaced(
            {name: versions or None for name, versions in changes.items()}
        )
        return self if sharded is self.sharded else Versions.of(sharded)

    def changed(self, since: Versions[Entry]) -> set[str]:
        """Return the adapters whose versions differ."""
        return self.sharded.changed(since.sharded)

    def __iter__(self) -> Iterator[Entry]:
        for part in self.sharded.parts:
            for versions in part.values():
                yield from versions

    def __len__(self) -> int:
        if self._length is None:
            self._length = sum(
                len(versions) for part in self.sharded.parts for versions in part.values()
            )
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self)[index]
        at = index if index >= 0 else len(self) + index
        for entry in islice(self, at, None) if at >= 0 else ():
            return entry
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
    """A model with one field of entries by adapter name.

    With few adapters it is written whole. Beyond `PER_SHARD` names it is written as shards and a
    head that names them by digest, so a new heartbeat writes only the head.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    shards: tuple[str, ...] = ()  # in a head: digests of the shards with its entries

    entries: ClassVar[str]  # the name of the field of entries, Shards or Versions
    shard: ClassVar[TypeAdapter[Any]]  # of the JSON text of a shard, dict[str, Value]

    def split(self) -> tuple[BaseModel, dict[str, bytes]]:
        """Return the head, and the texts of its shards by digest (none if the model is small)."""
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
    """Reads models of one kind; a shard still in use by any of them is not read again."""

    def __init__(self, kind: type[ModelT]) -> None:
        self.kind = kind
        self._shards: WeakValueDictionary[str, Shard[Any]] = WeakValueDictionary()

    def join(self, head: ModelT, text: Callable[[str], bytes]) -> ModelT:
        """Return the model of a head; `text` returns the text of a shard by digest.

        Raises ValueError (such as pydantic's ValidationError) if a text is not that shard, and the
        errors of `text`.
        """
        if not head.shards:
            return head
        return self.with_parts(head, tuple(self.read(digest, text) for digest in head.shards))

    def with_parts(self, head: ModelT, parts: Sequence[Shard[Any]]) -> ModelT:
        """Return the model of a head and its shards, which may be a lazy sequence."""
        field = type(getattr(head, head.entries))
        whole = field.of(Shards.of_parts(parts))
        return head.model_copy(update={head.entries: whole, "shards": ()})

    def read(self, digest: str, text: Callable[[str], bytes]) -> Shard[Any]:
        """Return a shard by its digest. Raises ValueError if its text has another digest."""
        shard = self._shards.get(digest)
        if shard is None:
            data = text(digest)
            if digest_of(data) != digest:
                raise ValueError(f"shard {digest}: has another digest; it was changed or damaged")
            shard = Shard(self.kind.shard.validate_json(data))
            shard.digest, shard.text = digest, data
            self._shards[digest] = shard
        return shard


def digest_of(text: bytes) -> str:
    """Return the name of a shard: 64 bits of its text's SHA-256, in hex."""
    return hashlib.sha256(text).hexdigest()[:16]


def _place(name: str, count: int) -> int:
    return zlib.crc32(name.encode()) & (count - 1)


def _differing(present: Mapping[str, Value], past: Mapping[str, Value]) -> set[str]:
    names = {name for name in past if name not in present}
    for name, value in present.items():
        before = past.get(name)
        if value is not before and value != before:
            names.add(name)
    return names


def _write(part: Shard[Any], adapter: TypeAdapter[Any]) -> None:
    """Set text and digest of a shard. Equal shards have equal texts, in any order of names."""
    if not hasattr(part, "text"):
        ordered = {name: part[name] for name in sorted(part)}
        text = adapter.dump_json(ordered, exclude_defaults=True)
        part.digest, part.text = digest_of(text), text


def _schema(cls: type[Any], plain: Callable[[Any], Any], inner: CoreSchema) -> CoreSchema:
    """Return a schema that validates and dumps like `inner`, and passes instances unchanged."""

    def read(value: Any, validate: Callable[[Any], Any]) -> Any:
        return value if isinstance(value, cls) else cls(validate(value))

    dumped = core_schema.plain_serializer_function_ser_schema(plain, return_schema=inner)
    return core_schema.no_info_wrap_validator_function(read, inner, serialization=dumped)
