"""One of several processes that train together; `launch.py` starts them with accelerate.

python -m pipelines.train run/placed.json --policy run/policy.json --output run --resume
"""

import argparse
import sys
from pathlib import Path

from atelier.data.policy import Policy
from atelier.data.recipe import Recipe
from atelier.failures import run_process
from pipelines.settings import JobSettings


def main(arguments: list[str] | None = None) -> int:
    """Train and return the exit code (see atelier.errors)."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.train", description=__doc__)
    parser.add_argument("recipe", type=Path, help="the recipe as JSON, with the paths of its files")
    parser.add_argument(
        "--policy", type=Path, required=True, help="the policy that judges the checkpoints"
    )
    parser.add_argument("--output", type=Path, required=True, help="the run folder")
    parser.add_argument(
        "--resume", action="store_true", help="resume the run in the folder --output"
    )
    options = parser.parse_args(arguments)

    def work() -> None:
        JobSettings.read()  # reports an invalid variable before torch is loaded
        recipe = Recipe.parse(options.recipe.read_bytes(), str(options.recipe))
        policy = Policy.load(options.policy)
        from transformers.utils import logging

        from pipelines.evaluate import checkpoint_judge
        from pipelines.train.progress import watcher
        from pipelines.train.trainer import train

        logging.disable_progress_bar()
        train(
            recipe,
            output=options.output,
            resume=options.resume,
            progress=watcher(),
            judge=checkpoint_judge(policy, recipe),
        )

    return run_process(work)


if __name__ == "__main__":
    sys.exit(main())
