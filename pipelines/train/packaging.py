"""Writes the adapter package of a run, from the weights of any of its checkpoints."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from atelier.adapter.package import Package, write_package
from atelier.data.manifest import BaseRef
from atelier.data.recipe import Recipe, Stage
from atelier.errors import BadInput
from pipelines.dataset import hold_back, open_folder
from pipelines.train.checkpoint import Checkpoints, RunIdentity
from pipelines.train.run_folder import RunFolder, commit_of


def write(
    folder: Path,
    weights: Mapping[str, Tensor],
    recipe: Recipe,
    stage: Stage,
    identity: RunIdentity,
    held_back: Sequence[str],
) -> Package:
    """Write `weights`, the trainable parameters by canonical key, as a package to `folder`.

    `held_back` are the digests of the pictures that training did not use.
    """
    return write_package(
        folder,
        {name: tensor.detach().cpu().numpy() for name, tensor in weights.items()},
        name=recipe.adapter,
        base=BaseRef(id=recipe.base.model, digest=identity.base),
        alpha=stage.lora.alpha,
        targets=stage.lora.targets,
        trigger=recipe.trigger,
        noun=recipe.class_,
        styles=recipe.styles,
        dataset=identity.dataset,
        held_back=held_back,
        recipe=recipe.digest,
        git_commit=commit_of(recipe.folder),
    )


def package_of_checkpoint(recipe: Recipe, output: Path, step: int) -> Package:
    """Write the package of the checkpoint of `step` in the run folder `output`.

    The package is the one that the run would have written if it had chosen this step. It is written
    beside the run's own package, which stays. Raises BadInput if the folder contains no run of this
    recipe, or no undamaged checkpoint of the step (the error lists the steps that it contains), or
    if the pictures of the recipe have changed since.
    """
    folder = RunFolder(output.absolute())
    identity = _identity(folder, recipe)
    checkpoints = Checkpoints(folder.checkpoints, identity, recipe.checkpoint.keep)
    weights = checkpoints.weights(step)
    stage = recipe.stages[identity.stage]
    pictures = open_folder(recipe.dataset_folder(stage), stage.dataset.captions)
    if pictures.digest != identity.dataset:
        raise BadInput(
            f"{pictures.path}: the pictures have changed since the run ({identity.dataset}, now "
            f"{pictures.digest}); restore them"
        )
    held_back = hold_back(pictures, stage.dataset.hold_back).held_back_digests
    return write(folder.package_at(step), weights, recipe, stage, identity, held_back)


def _identity(folder: RunFolder, recipe: Recipe) -> RunIdentity:
    if not folder.about.exists():
        raise BadInput(
            f"{folder.root}: contains no run; train into it first, or give the folder of a run "
            "with --output"
        )
    identity = RunIdentity(**json.loads(folder.about.read_text())["identity"])
    if identity.recipe != recipe.digest:
        raise BadInput(
            f"{folder.root}: contains a run of another recipe ({identity.recipe}, not "
            f"{recipe.digest}); give the recipe of this run, or another --output"
        )
    return identity
