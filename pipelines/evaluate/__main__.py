"""One verdict as a process: what a Job runs. Exit code 1 where the adapter is refused.

python -m pipelines.evaluate run/package --recipe adapters/thor-cat/recipe.yaml --output verdict
"""

import argparse
import sys
from pathlib import Path

from atelier.adapter.package import Package
from atelier.boundary import answered
from atelier.data.policy import Policy
from atelier.data.recipe import Recipe
from atelier.errors import Refused
from pipelines.evaluate import evaluate
from pipelines.settings import JobSettings


def main(arguments: list[str] | None = None) -> int:
    """Judges; the exit code is the command line's contract (see atelier.errors)."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.evaluate", description=__doc__)
    parser.add_argument("package", type=Path, help="the adapter package's folder")
    parser.add_argument("--recipe", type=Path, required=True, help="what it was trained by")
    parser.add_argument("--policy", type=Path, help="the environment's (default: the program's)")
    parser.add_argument("--output", type=Path, required=True, help="where the verdict is written")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)

    def work() -> None:
        JobSettings.read()
        recipe = Recipe.load(options.recipe)
        judged = evaluate(
            Package.open(options.package),
            Policy.load(options.policy),
            base=recipe.base.model,
            training_pictures=recipe,
            output=options.output,
        )
        print("\n".join(judged.reasons))
        if not judged.accepted:
            raise Refused(f"{judged.adapter}: refused; see {options.output}")

    return answered(work, debug=options.debug)


if __name__ == "__main__":
    sys.exit(main())
