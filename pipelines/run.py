"""The whole pipeline on one page: a recipe and its pictures become an adapter that serves.

python -m pipelines.run adapters/thor-cat/recipe.yaml

Each line of `run` is a stage of its own, which a Job can run alone; what passes between them is a
folder, its digest, and what the registry says about it.
"""

import argparse
import sys
from pathlib import Path

from atelier.boundary import answered
from atelier.errors import DatasetError, Refused
from atelier.home import Home
from atelier.policy import Policy
from atelier.recipe import Recipe
from atelier.registry import Registry
from pipelines.dataset import lint
from pipelines.evaluate import FILE, SHEET, Evaluation, evaluate
from pipelines.promote import Smoke, Standing, promote
from pipelines.train import TrainResult, train
from pipelines.train.folder import RunFolder
from pipelines.train.progress import watcher


def run(
    recipe: Recipe,
    policy: Policy,
    home: Home,
    *,
    resume: bool = False,
    smoke: Smoke | None = None,
) -> Standing:
    """Train, judge, register and promote; Refused with the reasons where the verdict says no."""
    policy.tightened(recipe.gates)  # a recipe that asks for less than the operator ends here
    output = RunFolder.of(recipe, home).root
    check_pictures(recipe)
    trained = train(recipe, output=output, resume=resume, progress=watcher())
    judged = evaluate(
        trained.package,
        policy,
        base=recipe.base.model,
        training_pictures=recipe,
        output=output / "evaluation",
        cache=home.root / "cache" / "pictures",
    )
    registry = Registry(home.tracking_uri)
    version = register(trained, judged, output / "evaluation", registry)
    if not judged.accepted:
        raise Refused(f"{recipe.adapter}@{version} is refused:\n- " + "\n- ".join(judged.reasons))
    return promote(
        recipe.adapter, version, registry=registry, home=home, policy=policy, smoke=smoke
    )


def check_pictures(recipe: Recipe) -> None:
    """Say what is wrong with the pictures before an hour is spent on them."""
    for stage in recipe.stages:
        data, folder = stage.dataset, recipe.dataset_folder(stage)
        found = lint(folder, resolution=data.resolution, captions=data.captions)
        if errors := [str(finding) for finding in found if finding.severity == "error"]:
            raise DatasetError("\n".join(errors))


def register(trained: TrainResult, judged: Evaluation, folder: Path, registry: Registry) -> int:
    """The package as the adapter's newest version and candidate, with its verdict beside it."""
    name = trained.package.manifest.name
    version = registry.register(trained.package, run_id=trained.run_id)
    registry.attest(name, version, FILE, judged.to_json().encode())
    registry.attest(name, version, SHEET, (folder / SHEET).read_bytes())
    return version


def main(arguments: list[str] | None = None) -> int:
    """The exit code is the command line's contract (see atelier.errors)."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.run", description=run.__doc__)
    parser.add_argument("recipe", type=Path, help="the recipe.yaml to train and serve")
    parser.add_argument("--policy", type=Path, help="the environment's (default: the program's)")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)

    def work() -> None:
        recipe, policy = Recipe.load(options.recipe), Policy.load(options.policy)
        print(run(recipe, policy, Home.find(), resume=options.resume).message)

    return answered(work, debug=options.debug)


if __name__ == "__main__":
    sys.exit(main())
