"""What a push asks for: which recipes to train, which declarations to carry out.

Decided from the paths that differ and from what the two commits hold, not from their history: a
rename is the end of one path and the beginning of another, and a merge is what came of it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from posixpath import join, normpath
from typing import Any

from atelier.ci.git import GitError, Repository
from atelier.data.declaration import ENVIRONMENTS
from atelier.data.recipe import ADAPTERS, RECIPE
from atelier.data.yaml_text import mapping

_DECLARED = re.compile(rf"{ENVIRONMENTS.as_posix()}/(?P<env>[^/]+)/adapters/(?P<name>[^/]+)\.yaml")


@dataclass(frozen=True)
class Trained:
    """A recipe that a push trains."""

    adapter: str
    recipe: str
    uses: frozenset[str]  # the folders it is made from, its own among them

    def is_touched(self, paths: Iterable[str]) -> bool:
        """Whether one of these paths is what it is made from, or in it."""
        return any(path == one or path.startswith(f"{one}/") for path in paths for one in self.uses)


@dataclass(frozen=True)
class Declared:
    """A declaration: what serves of an adapter in an environment."""

    environment: str
    adapter: str
    version: int | None = None  # that is new in it: the canary's where it has one


@dataclass(frozen=True)
class Changes:
    """The work that the commits after `since` up to `until` ask for."""

    since: str | None  # None: the commit is not in this repository
    until: str
    train: tuple[Trained, ...]
    removed: tuple[str, ...]  # adapters whose recipe is gone
    promote: tuple[Declared, ...]
    retire: tuple[Declared, ...]


def changes_since(repository: Repository, since: str, until: str = "HEAD") -> Changes:
    """The changes between two revisions.

    Everything counts as changed where the commit `since` is not in the repository. Raises GitError
    for a name that is no revision, and where `until` is not there.
    """
    before, after = repository.commit(since), repository.commit(until)
    if after is None:
        raise GitError(f"{until}: is no commit of {repository.root}")
    return changes(repository, before, after)


def changes(repository: Repository, since: str | None, until: str) -> Changes:
    """Between two commits; without the first, everything of the second counts as changed."""
    after = _recipes(repository, until)
    paths = repository.files(until, ENVIRONMENTS.as_posix())
    if since is None:
        return Changes(
            since=None,
            until=until,
            train=tuple(after.values()),
            removed=(),
            promote=_declared(repository, until, paths),
            retire=(),
        )
    touched = repository.touched(since, until)
    names = {one.adapter for one in after.values()}
    before = {one.adapter for one in _recipes(repository, since).values()}
    kept, gone = set(touched) & set(paths), set(touched) - set(paths)
    return Changes(
        since=since,
        until=until,
        train=tuple(one for one in after.values() if one.is_touched(touched)),
        removed=tuple(sorted(before - names)),
        promote=_declared(repository, until, kept),
        retire=_declared(repository, since, gone),
    )


def _declared(repository: Repository, commit: str, paths: Iterable[str]) -> tuple[Declared, ...]:
    found = []
    for path in sorted(paths):
        if place := _DECLARED.fullmatch(path):
            written = mapping(repository.read(commit, path))
            canary = written.get("canary")
            version = (canary if isinstance(canary, dict) else written).get("version")
            number = version if isinstance(version, int) else None
            found.append(Declared(place["env"], place["name"], number))
    return tuple(found)


def _recipes(repository: Repository, commit: str) -> dict[str, Trained]:
    found = {}
    for path in repository.files(commit, ADAPTERS):
        place = PurePosixPath(path)
        if place.name == RECIPE and len(place.parts) == 3:
            found[path] = _trained(path, mapping(repository.read(commit, path)))
    return found


def _trained(path: str, written: Mapping[str, Any]) -> Trained:
    """A recipe that names no adapter is its folder's."""
    folder = PurePosixPath(path).parent.as_posix()
    name = written.get("adapter")
    adapter = name if isinstance(name, str) else PurePosixPath(folder).name
    uses = {normpath(one) for one in (folder, *_named(written, folder))}
    return Trained(adapter, path, frozenset(uses))


def _named(written: Mapping[str, Any], folder: str) -> Iterator[str]:
    """Pictures lie relative to the recipe, bases to the root; what is elsewhere is not in git."""
    stages, base = written.get("stages"), written.get("base")
    for stage in stages if isinstance(stages, list) else []:
        data = stage.get("dataset") if isinstance(stage, dict) else None
        path = data.get("path") if isinstance(data, dict) else None
        if isinstance(path, str):
            yield join(folder, path)
    for key in ("model", "vae"):
        place = base.get(key) if isinstance(base, dict) else None
        if isinstance(place, str):
            yield place
