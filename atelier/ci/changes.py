"""The work that a push requires: recipes to train, and declarations to apply.

The work follows from the changed paths and the content of two commits, not from the history between
them: a rename counts as a removed and an added path, and a merge counts by its result.
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
    uses: frozenset[str]  # the folders of the inputs, and of the recipe

    def is_touched(self, paths: Iterable[str]) -> bool:
        """Return whether one of `paths` is one of the folders `uses`, or is inside one."""
        return any(
            path == folder or path.startswith(f"{folder}/")
            for path in paths
            for folder in self.uses
        )


@dataclass(frozen=True)
class Declared:
    """The declaration of an adapter in an environment."""

    environment: str
    adapter: str
    version: int | None = None  # of the canary, if there is one


@dataclass(frozen=True)
class Changes:
    """The work that the commits after `since` up to `until` require."""

    since: str | None  # None: the commit is not in this repository
    until: str
    train: tuple[Trained, ...]
    removed: tuple[str, ...]  # adapters whose recipe was removed
    promote: tuple[Declared, ...]
    retire: tuple[Declared, ...]


def changes_since(repository: Repository, since: str, until: str = "HEAD") -> Changes:
    """Return the changes between two revisions.

    If the commit `since` is not in the repository, everything counts as changed. Raises GitError
    for an unknown name, and if `until` is missing.
    """
    before, after = repository.commit(since), repository.commit(until)
    if after is None:
        raise GitError(
            f"{until}: is not a commit of {repository.root}; check the name, or fetch it"
        )
    return changes(repository, before, after)


def changes(repository: Repository, since: str | None, until: str) -> Changes:
    """Return the changes between two commits; without `since`, everything counts as changed."""
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
    names = {recipe.adapter for recipe in after.values()}
    before = {recipe.adapter for recipe in _recipes(repository, since).values()}
    kept, gone = set(touched) & set(paths), set(touched) - set(paths)
    return Changes(
        since=since,
        until=until,
        train=tuple(recipe for recipe in after.values() if recipe.is_touched(touched)),
        removed=tuple(sorted(before - names)),
        promote=_declared(repository, until, kept),
        retire=_declared(repository, since, gone),
    )


def _declared(repository: Repository, commit: str, paths: Iterable[str]) -> tuple[Declared, ...]:
    declarations = []
    for path in sorted(paths):
        if place := _DECLARED.fullmatch(path):
            written = mapping(repository.read(commit, path))
            canary = written.get("canary")
            version = (canary if isinstance(canary, dict) else written).get("version")
            number = version if isinstance(version, int) else None
            declarations.append(Declared(place["env"], place["name"], number))
    return tuple(declarations)


def _recipes(repository: Repository, commit: str) -> dict[str, Trained]:
    recipes = {}
    for path in repository.files(commit, ADAPTERS):
        place = PurePosixPath(path)
        if place.name == RECIPE and len(place.parts) == 3:
            recipes[path] = _trained(path, mapping(repository.read(commit, path)))
    return recipes


def _trained(path: str, written: Mapping[str, Any]) -> Trained:
    """Return the training of a recipe; without `adapter`, the folder names the adapter."""
    folder = PurePosixPath(path).parent.as_posix()
    name = written.get("adapter")
    adapter = name if isinstance(name, str) else PurePosixPath(folder).name
    uses = {normpath(used) for used in (folder, *_named(written, folder))}
    return Trained(adapter, path, frozenset(uses))


def _named(written: Mapping[str, Any], folder: str) -> Iterator[str]:
    """Yield the paths that a recipe names, relative to the root of the repository.

    In the recipe, picture paths are relative to `folder`, those of base and VAE to the root.
    """
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
