"""Release ConfigMaps: what `helm upgrade` and `helm rollback` write, one object an adapter."""

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
    """One ConfigMap, parsed: its release, or why there is none."""

    object: Object
    name: str  # of the adapter
    release: Release | None = None
    trouble: str = ""

    @property
    def data(self) -> Mapping[str, str]:
        return self.object.get("data") or {}


class ClusterReleases:
    """A namespace's releases. A ConfigMap is parsed when its data change, and a manifest in it when
    somebody asks for it."""

    def __init__(self, source: Source, api: Api):
        self._source, self._api = source, api
        self._objects: Mapping[str, Object] | None = None  # of the last look
        self._parsed: dict[str, _Read] = {}  # by the ConfigMap's name
        self._pinned: dict[str, str] | None = None  # ConfigMaps by the digests that they name
        self._released = Released()

    def read(self) -> Released:
        """The same object as long as nothing changes. ClusterAway where nothing was ever known."""
        snapshot = self._source.read()
        if not snapshot.known:
            raise ClusterAway(snapshot.trouble or "the API server has not answered yet")
        if snapshot.objects is not self._objects:
            self._read_anew(snapshot.objects)
        if snapshot.trouble != self._released.trouble:
            self._released = replace(self._released, trouble=snapshot.trouble)
        return self._released

    def find(self, name: str) -> Release | None:
        """One adapter's release as it is now, None where it is not released; ReleaseError where
        that cannot be read."""
        try:
            found = _parse(self._api.get(CONFIG_MAPS, f"{PREFIX}{name}"))
        except NotFound:
            return None
        if found.release is None:
            raise ReleaseError(found.trouble)
        return found.release

    def manifest(self, digest: str) -> Manifest | None:
        if self._pinned is None:  # nobody has asked for a manifest yet; an agent never does
            self._pinned = _by_digest(self._parsed)
        found = self._parsed.get(self._pinned.get(digest, ""))
        text = _texts(found.data.get(MANIFESTS, "{}")).get(digest) if found else None
        if found is None or text is None:
            return None
        try:
            return verified(str(text).encode(), digest)
        except ValueError as error:
            raise ReleaseError(f"{PREFIX}{found.name}, manifest {digest}: {error}") from error

    def _read_anew(self, objects: Mapping[str, Object]) -> None:
        """Parse the objects that are others than at the last look."""
        found: dict[str, _Read] = {}
        changes: dict[str, Release | None] = {}  # by adapter
        for name, one in objects.items():
            if not name.startswith(PREFIX):  # charts/adapter labels its hook too, which is none
                continue
            known = self._parsed.get(name)
            if known is None or known.object is not one:
                if known is not None and known.data == (one.get("data") or {}):
                    known = replace(known, object=one)
                else:
                    if known is not None:
                        changes[known.name] = None
                    known = _parse(one)
                    changes[known.name] = known.release
                    if self._pinned is not None:
                        self._pinned |= _by_digest({name: known})
            found[name] = known
        for name in self._parsed.keys() - found.keys():
            changes.setdefault(self._parsed[name].name, None)
        if changes:
            self._released = Released(
                releases=self._released.releases.replaced(changes),
                unreadable={one.name: one.trouble for one in found.values() if not one.release},
            )
        if self._pinned is not None and len(self._pinned) > 2 * len(found) * HISTORY:
            self._pinned = _by_digest(found)  # without what nobody names any more
        self._objects, self._parsed = objects, found


def _by_digest(parsed: Mapping[str, _Read]) -> dict[str, str]:
    """ConfigMaps by the digests of every version that their releases name, past ones too."""
    return {
        pin.digest: name
        for name, one in parsed.items()
        if one.release
        for pin in (*one.release.served, *one.release.previous)
    }


def _adapter(one: Object) -> str:
    metadata = one["metadata"]
    return str(metadata.get("labels", {}).get(LABEL) or metadata["name"].removeprefix(PREFIX))


def _parse(one: Object) -> _Read:
    name, data = _adapter(one), one.get("data") or {}
    try:
        release = Release.model_validate_json(data[RELEASE])
    except KeyError:
        return _Read(one, name, trouble=f"ConfigMap {PREFIX}{name} has no {RELEASE}")
    except ValidationError as error:
        text = f"ConfigMap {PREFIX}{name}: not a release ({summary(error)})"
        return _Read(one, name, trouble=text)
    if release.adapter != name:
        text = f"ConfigMap {PREFIX}{name}: is the release of {release.adapter}"
        return _Read(one, name, trouble=text)
    return _Read(one, name, release)


def _texts(data: str) -> Mapping[str, object]:
    """Manifests by digest; none where that cannot be read: then nothing of it is called."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
