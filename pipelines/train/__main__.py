"""One of the processes that train together. `launch.py` starts them by `accelerate launch`.

python -m pipelines.train run/placed.json --output run --resume
"""

import argparse
import sys
from pathlib import Path

from atelier.data.recipe import Recipe
from atelier.failures import run_process
from pipelines.settings import JobSettings


def main(arguments: list[str] | None = None) -> int:
    """The exit code (see atelier.errors)."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.train", description=__doc__)
    parser.add_argument("recipe", type=Path, help="the recipe with its places, as JSON")
    parser.add_argument("--output", type=Path, required=True, help="the run's folder")
    parser.add_argument("--resume", action="store_true", help="resume the run in that folder")
    options = parser.parse_args(arguments)

    def work() -> None:
        JobSettings.read()  # a wrong variable ends it before torch is loaded
        recipe = Recipe.parse(options.recipe.read_bytes(), str(options.recipe))
        from transformers.utils import logging

        from pipelines.train.progress import watcher
        from pipelines.train.trainer import train

        logging.disable_progress_bar()
        train(recipe, output=options.output, resume=options.resume, progress=watcher())

    return run_process(work)


if __name__ == "__main__":
    sys.exit(main())
