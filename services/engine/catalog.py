"""Adapters by name and version, and which version answers requests that name none."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from atelier.data.names import nearest
from services.engine.result import UnknownAdapter

NAMED = 8  # names spelt out in an error


class Versioned(Protocol):
    """One adapter version."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int | None: ...


Item = TypeVar("Item", bound=Versioned)


class Catalog(Generic[Item]):
    """Items by name and version. The first version of a name becomes its default."""

    def __init__(self) -> None:
        self._items: dict[str, dict[int | None, Item]] = {}
        self._defaults: dict[str, int | None] = {}

    def get(self, name: str, version: int | None) -> Item | None:
        """The item of exactly that version."""
        return self._items.get(name, {}).get(version)

    def find(self, name: str, version: int | None) -> Item:
        """The item of a version, or of the default where that is None; UnknownAdapter without."""
        exact = version if version is not None else self._defaults.get(name)
        found = self.get(name, exact)
        if found is None:
            raise UnknownAdapter(self._unknown(name, version))
        return found

    def put(self, item: Item) -> Item | None:
        """Take an item in; what was there of the same name and version goes and is returned."""
        versions = self._items.setdefault(item.name, {})
        before = versions.get(item.version)
        versions[item.version] = item
        self._defaults.setdefault(item.name, item.version)
        return before

    def remove(self, name: str, version: int | None) -> Item:
        """Take an item out. Where it was the default, the newest that is left becomes it."""
        versions = self._items.get(name, {})
        if version not in versions:
            raise UnknownAdapter(self._unknown(name, version))
        item = versions.pop(version)
        if self._defaults.get(name, version) == version:
            self._defaults.pop(name, None)
            if versions:
                self._defaults[name] = max(versions, key=lambda v: -1 if v is None else v)
        if not versions:
            del self._items[name]
        return item

    def set_default(self, name: str, version: int | None) -> None:
        """Let a version answer; UnknownAdapter where it is not there."""
        if version not in self._items.get(name, {}):
            raise UnknownAdapter(self._unknown(name, version))
        self._defaults[name] = version

    def default(self, name: str) -> int | None:
        """The version that answers; None where there is none, or where it has no number."""
        return self._defaults.get(name)

    def __iter__(self) -> Iterator[Item]:
        for versions in self._items.values():
            yield from versions.values()

    def _unknown(self, name: str, version: int | None) -> str:
        versions = [str(version) for version in self._items.get(name, ())]
        if versions:
            return f"adapter {name}: no version {version} here; held: {', '.join(versions)}"
        near = nearest(name, self._items)
        hint = f"; did you mean {near}?" if near else ""
        some = ", ".join(heapq.nsmallest(NAMED, self._items))
        some += " …" if len(self._items) > NAMED else ""
        return f"adapter {name}: not held here{hint}; held: {some or 'none'}"
