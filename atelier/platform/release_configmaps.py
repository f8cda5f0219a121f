"""Release ConfigMaps, one per adapter, which `helm upgrade` and `helm rollback` write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from atelier.data.manifest import Manifest
from atelier.data.release import HISTORY, Release
from atelier.errors import ReleaseError
from atelier.platform.api import CONFIG_MAPS, Api, ClusterAway, NotFound, Object
from atelier.platform.informer import Source
from atelier.stores.environment import Released, verified
from atelier.validation import summary

LABEL = "atelier.dev/adapter"
RELEASE, MANIFESTS = "release.json", "manifests.json"
PREFIX = "release-"


@dataclass(frozen=True)
class _Read:
    """A parsed ConfigMap: the release, or the error."""

    object: Object
    name: str  # of the adapter
    release: Release | None = None
    trouble: str = ""

    @property
    def data(self) -> Mapping[str, str]:
        """The ConfigMap's data."""
        return self.object.get("data") or {}


class ClusterReleases:
    """The releases of a namespace.

    A ConfigMap is parsed when its data change. The manifests in it are parsed at the first call of
    `manifest`.
    """

    def __init__(self, source: Source, api: Api):
        self._source, self._api = source, api
        self._objects: Mapping[str, Object] | None = None  # of the last reading
        self._parsed: dict[str, _Read] = {}  # by the ConfigMap's name
        self._pinned: dict[str, str] | None = None  # ConfigMaps by the digests in them
        self._released = Released()

    def read(self) -> Released:
        """Return all releases, as the same object until something changes.

        Raises ClusterAway if the API server has never returned a list.
        """
        snapshot = self._source.read()
        if not snapshot.known:
            raise ClusterAway(snapshot.trouble or "the API server has not answered yet")
        if snapshot.objects is not self._objects:
            self._read_anew(snapshot.objects)
        if snapshot.trouble != self._released.trouble:
            self._released = replace(self._released, trouble=snapshot.trouble)
        return self._released

    def find(self, name: str) -> Release | None:
        """Read an adapter's current release, or None. Raises ReleaseError if it is unreadable."""
        try:
            entry = _parse(self._api.get(CONFIG_MAPS, f"{PREFIX}{name}"))
        except NotFound:
            return None
        if entry.release is None:
            raise ReleaseError(entry.trouble)
        return entry.release

    def manifest(self, digest: str) -> Manifest | None:
        """Return the manifest of a package, or None. Raises ReleaseError if it is invalid."""
        if self._pinned is None:  # only at the first call, because agents never call this
            self._pinned = _by_digest(self._parsed)
        entry = self._parsed.get(self._pinned.get(digest, ""))
        text = _texts(entry.data.get(MANIFESTS, "{}")).get(digest) if entry else None
        if entry is None or text is None:
            return None
        try:
            return verified(str(text).encode(), digest)
        except ValueError as error:
            raise ReleaseError(
                f"{PREFIX}{entry.name}, manifest {digest}: {error}; promote the adapter again"
            ) from error

    def _read_anew(self, objects: Mapping[str, Object]) -> None:
        """Parse the objects that have changed."""
        parsed: dict[str, _Read] = {}
        changes: dict[str, Release | None] = {}  # by adapter
        for name, config_map in objects.items():
            if not name.startswith(PREFIX):  # the hook of charts/adapter has the same label
                continue
            entry = self._parsed.get(name)
            if entry is None or entry.object is not config_map:
                if entry is not None and entry.data == (config_map.get("data") or {}):
                    entry = replace(entry, object=config_map)
                else:
                    if entry is not None:
                        changes[entry.name] = None
                    entry = _parse(config_map)
                    changes[entry.name] = entry.release
                    if self._pinned is not None:
                        self._pinned |= _by_digest({name: entry})
            parsed[name] = entry
        for name in self._parsed.keys() - parsed.keys():
            changes.setdefault(self._parsed[name].name, None)
        if changes:
            entries = parsed.values()
            self._released = Released(
                releases=self._released.releases.replaced(changes),
                unreadable={entry.name: entry.trouble for entry in entries if not entry.release},
            )
        if self._pinned is not None and len(self._pinned) > 2 * len(parsed) * HISTORY:
            self._pinned = _by_digest(parsed)  # omit digests that no release names
        self._objects, self._parsed = objects, parsed


def _by_digest(parsed: Mapping[str, _Read]) -> dict[str, str]:
    """Return ConfigMaps by the digests of all present and past versions of their releases."""
    return {
        pin.digest: name
        for name, entry in parsed.items()
        if entry.release
        for pin in (*entry.release.served, *entry.release.previous)
    }


def _adapter(config_map: Object) -> str:
    metadata = config_map["metadata"]
    return str(metadata.get("labels", {}).get(LABEL) or metadata["name"].removeprefix(PREFIX))


def _parse(config_map: Object) -> _Read:
    name, data = _adapter(config_map), config_map.get("data") or {}
    try:
        release = Release.model_validate_json(data[RELEASE])
    except KeyError:
        return _Read(
            config_map,
            name,
            trouble=f"ConfigMap {PREFIX}{name}: has no {RELEASE}; promote the adapter again",
        )
    except ValidationError as error:
        text = (
            f"ConfigMap {PREFIX}{name}: not a release ({summary(error)}); promote the adapter again"
        )
        return _Read(config_map, name, trouble=text)
    if release.adapter != name:
        text = (
            f"ConfigMap {PREFIX}{name}: contains the release of {release.adapter}; promote both "
            "adapters again"
        )
        return _Read(config_map, name, trouble=text)
    return _Read(config_map, name, release)


def _texts(data: str) -> Mapping[str, object]:
    """Return manifests by digest; none if `data` cannot be parsed."""
    try:
        manifests = json.loads(data)
    except ValueError:
        return {}
    return manifests if isinstance(manifests, dict) else {}
