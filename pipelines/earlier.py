"""Finds the result of an earlier training with the same inputs, so that it is not trained again.

The inputs are the digests of the recipe, of the pictures with their captions, of the base and, if
the recipe names one, of the VAE. Versions of libraries and the number of processes also affect the
weights, but are not compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

from atelier.data.names import hex_of
from atelier.data.recipe import Recipe
from atelier.files import digest_files
from atelier.home import Home
from atelier.stores.base_files import base_digest, resolve_base, resolve_vae, vae_files
from atelier.stores.packages import fetched
from atelier.stores.registry import Registry, VersionInfo
from pipelines import train as training  # imports torch on first use
from pipelines.dataset import open_folder
from pipelines.train.run_folder import RunFolder


class Inputs:
    """The digests of a recipe's inputs. The base is only read if everything else is equal."""

    def __init__(self, recipe: Recipe) -> None:
        stage = recipe.stages[-1]
        self._recipe = recipe
        self.recipe = recipe.digest
        self.dataset = open_folder(recipe.dataset_folder(stage), stage.dataset.captions).digest

    @cached_property
    def base(self) -> str:
        """The digest of the base."""
        spec = self._recipe.base_here
        return base_digest(resolve_base(spec.model, spec.revision))

    @cached_property
    def vae(self) -> str | None:
        """The digest of the VAE that replaces the VAE of the base, or None."""
        spec = self._recipe.base_here
        if spec.vae is None:
            return None
        folder = resolve_vae(spec.vae)
        return digest_files(folder, vae_files(folder))

    def same(self, recorded: Mapping[str, str | None]) -> bool:
        """Return whether `recorded` has the same digests: recipe, dataset, base and vae."""
        if (recorded.get("recipe"), recorded.get("dataset")) != (self.recipe, self.dataset):
            return False
        return (recorded.get("base"), recorded.get("vae")) == (self.base, self.vae)

    def of_version(self, info: VersionInfo) -> bool:
        """Return whether a registered version was trained from these inputs."""
        names = ("recipe", "dataset", "base", "vae")
        return self.same({name: info.tags.get(f"atelier.{name}") for name in names})

    def of_run(self, folder: RunFolder) -> bool:
        """Return whether a run folder contains a training from these inputs."""
        return self.same(json.loads(folder.about.read_text())["identity"])


@dataclass(frozen=True)
class Earlier:
    """What exists of a training: its version in the registry, and its run folder.

    `folder` is the folder of the version's run if it is on this machine, otherwise the folder in
    which the recipe is trained. `finished` tells whether it contains a package.
    """

    version: VersionInfo | None
    folder: RunFolder
    finished: bool

    @property
    def run(self) -> RunFolder | None:
        """The folder of the finished run, None if it is not on this machine."""
        return self.folder if self.finished else None


def find(
    recipe: Recipe,
    home: Home,
    registry: Registry | None,
    *,
    resume: bool = False,
    again: bool = False,
) -> Earlier:
    """Look for a registered version and a run folder with the inputs of a recipe.

    With `again`, finished results are ignored; with `resume`, an unfinished run is found
    nevertheless. The newest version is preferred. Without a registry, only run folders are found.
    """
    inputs = Inputs(recipe)
    version = None if again or registry is None else newest(registry, recipe.adapter, inputs)
    known = [folder for folder in run_folders(recipe, home) if folder.about.exists()]
    same = [folder for folder in known if inputs.of_run(folder)]
    if version is not None:
        same = [folder for folder in same if _contains(folder, version)]
    elif again:
        same = [folder for folder in same if resume and folder.finished() is None]
    folder = same[-1] if same else _unused(recipe, home)
    return Earlier(version, folder, folder.finished() is not None)


def newest(registry: Registry, name: str, inputs: Inputs) -> VersionInfo | None:
    """Return the newest version of an adapter that was trained from the inputs, or None."""
    versions = registry.known_versions(name)
    return next((info for info in reversed(versions) if inputs.of_version(info)), None)


def existing_result(info: VersionInfo, recipe: Recipe, home: Home) -> training.TrainResult:
    """Fetch and verify the package of a version; return it as the result of a training."""
    package = fetched(Registry(home.tracking_uri), home, info)
    return training.TrainResult(package, info.run_id, recipe.stages[0].train.steps, 0.0)


def existing_registry(home: Home) -> Registry | None:
    """Return the registry, or None if it is a local database that does not exist yet.

    Creating the database takes seconds, and a new one contains no version. Raises Unavailable if
    the registry cannot be reached.
    """
    local = home.tracking_uri.removeprefix("sqlite:///")
    if local != home.tracking_uri and not Path(local).exists():
        return None
    return Registry(home.tracking_uri)


def run_folders(recipe: Recipe, home: Home) -> Iterator[RunFolder]:
    """Yield the default folder of a recipe and the further ones that exist, oldest first."""
    first = RunFolder.of(recipe, home)
    yield first
    for number in count(2):
        folder = RunFolder(first.root.with_name(f"{first.root.name}-{number}"))
        if not folder.root.exists():
            return
        yield folder


def _unused(recipe: Recipe, home: Home) -> RunFolder:
    """Return the first default folder that contains no run."""
    folders = list(run_folders(recipe, home))
    free = next((folder for folder in folders if not folder.about.exists()), None)
    first = folders[0].root
    return free or RunFolder(first.with_name(f"{first.name}-{len(folders) + 1}"))


def _contains(folder: RunFolder, version: VersionInfo) -> bool:
    package = folder.finished()
    return package is not None and package.digest == version.digest


def evaluation_folder(earlier: Earlier, home: Home) -> Path:
    """Return the folder for the files of an evaluation: in the run folder if it is here."""
    if earlier.version is None or earlier.finished:
        return earlier.folder.root / "evaluation"
    return home.evaluations / hex_of(earlier.version.digest)
