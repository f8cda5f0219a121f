"""Release ConfigMaps: what `helm upgrade` and `helm rollback` write, one object an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from atelier.data.manifest import Manifest
from atelier.data.release import Release
from atelier.errors import ReleaseError
from atelier.platform.api import ClusterAway, Object
from atelier.platform.informer import Source
from atelier.stores.environment import Released, verified
from atelier.validation import summary

LABEL = "atelier.dev/adapter"
RELEASE, MANIFESTS = "release.json", "manifests.json"
PREFIX = "release-"


@dataclass(frozen=True)
class _Read:
    """One ConfigMap, parsed: its release, or why there is none."""

    data: Mapping[str, str]
    release: Release | None = None
    trouble: str = ""
    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)  # manifests, by digest: why


class ClusterReleases:
    """A namespace's releases; a ConfigMap is parsed when its data change."""

    def __init__(self, source: Source):
        self._source = source
        self._parsed: dict[str, _Read] = {}  # by adapter

    def read(self) -> Released:
        """ClusterAway where nothing was ever known."""
        snapshot = self._source.read()
        if not snapshot.known:
            raise ClusterAway(snapshot.trouble or "the API server has not answered yet")
        found: dict[str, _Read] = {}
        for one in snapshot.objects.values():
            # charts/adapter labels its hook too, which is no release
            if one["metadata"]["name"].startswith(PREFIX):
                name, data = _adapter(one), one.get("data") or {}
                known = self._parsed.get(name)
                found[name] = known if known and known.data == data else _parse(name, data)
        self._parsed = found
        return Released(
            releases={name: one.release for name, one in found.items() if one.release},
            unreadable={name: one.trouble for name, one in found.items() if not one.release},
            trouble=snapshot.trouble,
        )

    def manifest(self, digest: str) -> Manifest | None:
        for name, one in self._parsed.items():
            if digest in one.manifests:
                return one.manifests[digest]
            if digest in one.refused:
                raise ReleaseError(f"{PREFIX}{name}, manifest {digest}: {one.refused[digest]}")
        return None


def _adapter(one: Object) -> str:
    metadata = one["metadata"]
    return str(metadata.get("labels", {}).get(LABEL) or metadata["name"].removeprefix(PREFIX))


def _parse(name: str, data: Mapping[str, str]) -> _Read:
    try:
        release = Release.model_validate_json(data[RELEASE])
    except KeyError:
        return _Read(data, trouble=f"ConfigMap {PREFIX}{name} has no {RELEASE}")
    except ValidationError as error:
        text = f"ConfigMap {PREFIX}{name}: not a release ({summary(error)})"
        return _Read(data, trouble=text)
    if release.adapter != name:
        text = f"ConfigMap {PREFIX}{name}: is the release of {release.adapter}"
        return _Read(data, trouble=text)
    manifests: dict[str, Manifest] = {}
    refused: dict[str, str] = {}
    for digest, manifest in _texts(data.get(MANIFESTS, "{}")).items():
        try:
            manifests[digest] = verified(str(manifest).encode(), digest)
        except ValueError as error:
            refused[digest] = str(error)
    return _Read(data, release, manifests=manifests, refused=refused)


def _texts(data: str) -> Mapping[str, object]:
    """Manifests by digest; none where that cannot be read: then nothing of it is called."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
