"""Adapters by name and version, with the default version of each name."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from atelier.data.names import nearest
from services.engine.result import UnknownAdapter

NAMED = 8  # names listed in an error


class Versioned(Protocol):
    """One adapter version."""

    @property
    def name(self) -> str:
        """The adapter's name."""
        ...

    @property
    def version(self) -> int | None:
        """The version; None for weights without a version."""
        ...


Item = TypeVar("Item", bound=Versioned)


class Catalog(Generic[Item]):
    """Items by name and version. The first version of a name becomes its default."""

    def __init__(self) -> None:
        self._items: dict[str, dict[int | None, Item]] = {}
        self._defaults: dict[str, int | None] = {}

    def get(self, name: str, version: int | None) -> Item | None:
        """Return the item with exactly this version, or None."""
        return self._items.get(name, {}).get(version)

    def find(self, name: str, version: int | None) -> Item:
        """Return the item of a version, or of the default version if `version` is None.

        Raises UnknownAdapter if there is no such item.
        """
        item = self.get(name, version if version is not None else self._defaults.get(name))
        if item is None:
            raise UnknownAdapter(self._unknown(name, version))
        return item

    def put(self, item: Item) -> Item | None:
        """Add an item. Return the item with the same name and version that it replaces, or None."""
        versions = self._items.setdefault(item.name, {})
        before = versions.get(item.version)
        versions[item.version] = item
        self._defaults.setdefault(item.name, item.version)
        return before

    def remove(self, name: str, version: int | None) -> Item:
        """Remove and return an item.

        If it was the default, the newest remaining version becomes the default.

        Raises UnknownAdapter if there is no such item.
        """
        versions = self._items.get(name, {})
        if version not in versions:
            raise UnknownAdapter(self._unknown(name, version))
        item = versions.pop(version)
        if self._defaults.get(name, version) == version:
            self._defaults.pop(name, None)
            if versions:
                self._defaults[name] = max(
                    versions, key=lambda version: -1 if version is None else version
                )
        if not versions:
            del self._items[name]
        return item

    def set_default(self, name: str, version: int | None) -> None:
        """Make a version the default of its name. Raises UnknownAdapter if it does not exist."""
        if version not in self._items.get(name, {}):
            raise UnknownAdapter(self._unknown(name, version))
        self._defaults[name] = version

    def default(self, name: str) -> int | None:
        """Return the default version, or None if there is no default or it has no number."""
        return self._defaults.get(name)

    def __iter__(self) -> Iterator[Item]:
        for versions in self._items.values():
            yield from versions.values()

    def _unknown(self, name: str, version: int | None) -> str:
        versions = [str(version) for version in self._items.get(name, ())]
        if versions:
            return f"adapter {name}: no version {version} here; use one of {', '.join(versions)}"
        near = nearest(name, self._items)
        hint = f"; did you mean {near}?" if near else ""
        listed = ", ".join(heapq.nsmallest(NAMED, self._items))
        listed += " …" if len(self._items) > NAMED else ""
        return f"adapter {name}: not available here{hint}; available: {listed or 'none'}"
