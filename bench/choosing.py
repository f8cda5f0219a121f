"""Compare the best checkpoint of a training with its last one, by the oracle of the miniature.

    python -m bench.choosing --work build/choosing

Each of twelve characters is trained for longer and faster than it needs, as people do. The program
scores a checkpoint every 50 steps and chooses the best one by the policy (`checkpoint.judge`). The
adapter of the chosen checkpoint and that of the last one generate the policy's pictures, and the
oracle, which is no scorer of the policy, reads what they show: the subject's attributes, the kind,
the place, the class and unrelated things. The table has the mean of these over all pictures, and
the paired difference with twice its standard error. A finished character is not trained again.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from atelier.adapter.package import Package  # noqa: E402
from atelier.data.policy import Policy  # noqa: E402
from atelier.data.recipe import Recipe  # noqa: E402
from models.miniature.build.oracle import load_oracle  # noqa: E402
from models.miniature.calibrate.kinds import Kind  # noqa: E402
from models.miniature.calibrate.labels import picture_rates  # noqa: E402
from models.miniature.calibrate.recipes import kind_recipe  # noqa: E402
from models.miniature.calibrate.subjects import Subject, subjects  # noqa: E402
from pipelines.evaluate import checkpoint_judge, evaluate  # noqa: E402
from pipelines.train import train  # noqa: E402
from pipelines.train.packaging import package_of_checkpoint  # noqa: E402

BASE = Path("models/miniature")
STEPS, EVERY = 500, 50
LONG = Kind(
    "long",
    changes={
        "train": {"steps": STEPS, "lr": 2e-3, "schedule": "constant", "warmup": 20},
        "prior": {"weight": 1.0},
    },
)
SEEDS = {"first": 8, "most": 8}

Rates = dict[tuple[str, str, int], float]  # by role, prompt and seed


@dataclass(frozen=True)
class Row:
    """One character: the chosen step, the mean rates, and the paired difference with its error."""

    subject: str
    step: int
    best: float
    last: float
    difference: float
    error: float  # twice the standard error


def compare(work: Path, subject: Subject) -> Row:
    """Train and compare one character, or read its result."""
    folder = work / subject.name
    result = folder / "row.json"
    if result.exists():
        return Row(**json.loads(result.read_text()))
    torch.set_num_threads(1)
    os.environ["ATELIER_HOME"] = str(work.resolve() / "home")
    policy = Policy.load()
    recipe = kind_recipe(subject, LONG, folder, adapter="choosing")
    checkpoints = {"every": EVERY, "keep": 2, "judge": {"every": EVERY}}
    recipe = Recipe.model_validate(
        recipe.model_dump(by_alias=True) | {"checkpoint": checkpoints, "folder": folder}
    )
    judge = checkpoint_judge(policy, recipe)
    trained = train(recipe, output=folder / "run", resume=True, judge=judge)
    last = package_of_checkpoint(recipe, folder / "run", STEPS)
    best = _rates(trained.package, recipe, policy, subject, folder / "best")
    other = _rates(last, recipe, policy, subject, folder / "last")
    differences = np.array([best[key] - other[key] for key in best])
    row = Row(
        subject=subject.name,
        step=trained.steps,
        best=float(np.mean(list(best.values()))),
        last=float(np.mean(list(other.values()))),
        difference=float(differences.mean()),
        error=2 * float(differences.std(ddof=1) / np.sqrt(len(differences))),
    )
    result.write_text(json.dumps(asdict(row)))
    return row


def _rates(
    package: Package, recipe: Recipe, policy: Policy, subject: Subject, output: Path
) -> Rates:
    said = policy.model_dump(mode="json", exclude_none=True) | {"seeds": SEEDS}
    evaluation = evaluate(
        package,
        Policy.model_validate(said),
        base=BASE,
        training_pictures=recipe,
        output=output,
        cache=output.parents[1] / "base-pictures",
    )
    oracle = load_oracle(BASE / "oracle")
    found = picture_rates(evaluation, output, subject.character, oracle)
    return {
        (picture.role, picture.prompt, picture.seed): float(np.mean(list(values.values())))
        for picture, values in found
    }


def main() -> None:
    """Compare all characters, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/choosing"))
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    print("| character | chosen step | best | last | difference |")
    print("| --- | ---: | ---: | ---: | ---: |")
    rows = []
    with ProcessPoolExecutor(chosen.workers, get_context("spawn")) as pool:
        for row in pool.map(partial(compare, chosen.work), subjects(chosen.subjects)):
            rows.append(row)
            cells = (row.subject, row.step, f"{row.best:.3f}", f"{row.last:.3f}")
            difference = f"{row.difference:+.3f} ± {row.error:.3f}"
            print(f"| {' | '.join(map(str, cells))} | {difference} |", flush=True)
    better = sum(row.difference > 0 for row in rows)
    worse = [row.subject for row in rows if row.difference < -row.error]
    print(
        f"\nbetter for {better} of {len(rows)}; worse by more than the error for {worse or 'none'}"
    )


if __name__ == "__main__":
    main()
