"""One training as a process: what a Job runs.

python -m pipelines.train adapters/thor-cat/recipe.yaml --output run --resume
python -m pipelines.train --deliver run
"""

import argparse
import os
import sys
from pathlib import Path

from atelier.boundary import answered
from atelier.data.recipe import Recipe
from atelier.home import Home
from pipelines.settings import JobSettings


def main(arguments: list[str] | None = None) -> int:
    """Trains or delivers; the exit code is the command line's contract (see atelier.errors)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.recipe is None) == (options.deliver is None):
        parser.error("give either a RECIPE or --deliver RUN")

    def work() -> None:
        JobSettings.read()  # a wrong variable ends it before torch is loaded
        if options.deliver is not None:
            _deliver(options.deliver)
        elif options.processes > 1 and "WORLD_SIZE" not in os.environ:
            from pipelines.train.processes import launch

            launch(options.processes, "pipelines.train", arguments or sys.argv[1:])
        else:
            _train(options)

    return answered(work, debug=options.debug)


def _train(options: argparse.Namespace) -> None:
    path: Path = options.recipe
    is_placed = (
        path.suffix == ".json"
    )  # by pipelines.training_job, with all that the recipe names beside it
    recipe = Recipe.parse(path.read_bytes(), str(path)) if is_placed else Recipe.load(path)
    from transformers.utils import logging

    from pipelines.train.progress import watcher
    from pipelines.train.run_folder import RunFolder
    from pipelines.train.trainer import train

    logging.disable_progress_bar()
    output = options.output or RunFolder.of(recipe, Home.find()).root
    train(recipe, output=output, resume=options.resume, progress=watcher(), until=options.until)


def _deliver(folder: Path) -> None:
    from pipelines.train.tracking.tracker import deliver

    deliver(folder, Home.find())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.train", description=__doc__)
    parser.add_argument("recipe", nargs="?", type=Path, help="the recipe.yaml to train")
    parser.add_argument("--output", type=Path, help="the run's folder (default: in the home)")
    parser.add_argument("--resume", action="store_true", help="go on with the run that lies there")
    parser.add_argument("--until", type=int, help="stop, with a checkpoint, after this step")
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="train in so many at once, one a GPU, each with the recipe's batch (by accelerate)",
    )
    parser.add_argument(
        "--deliver", type=Path, metavar="RUN", help="only tell MLflow and W&B what is outstanding"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
