"""Recipes that go wrong, trained for real: each is stopped with a reason, and what serves stays.

Production here is one machine, `atelier serve` on the miniature with a character that was judged
well. The mistakes are in recipes and datasets, as people make them; no file is edited afterwards.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from atelier.data.policy import Policy
from atelier.data.release import Release
from pipelines.evaluate import Evaluation, attested_evaluation
from pipelines.run import register
from services.gateway.keys import KeyStore
from tests.integration.character import BASE, Learnt, needs_miniature
from tests.integration.stack import Picture, ServedStack

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples/thor-cat/recipe.yaml"
ASKED = {"prompt": "a photo in the snow", "seed": 5, "steps": 8}
# No class pictures, no trigger of its own and too high a rate: everything becomes the subject.
DRIFTING: dict[str, Any] = {
    "prior": None,
    "prompt": "a photo {caption}",
    "train": {
        "steps": 90,
        "batch": 2,
        "lr": 3e-3,
        "lr_ratio": 4,
        "schedule": "constant",
        "warmup": 0,
    },
}
# One picture, and more than enough rank and rate to learn it by heart.
COPYING: dict[str, Any] = {
    "prior": None,
    "lora": {"rank": 64, "targets": ["attn", "ff", "proj"]},
    "train": {"steps": 160, "batch": 2, "lr": 1e-3, "lr_ratio": 4, "warmup": 10},
}
UNDERTRAINED: dict[str, Any] = {"prior": {"images": 4}, "train": {"steps": 3, "warmup": 0}}

pytestmark = [needs_miniature, pytest.mark.timeout(1500)]


@dataclass(frozen=True)
class Production:
    """What serves, and how to ask it and the command line beside it."""

    stack: ServedStack
    name: str
    key: str
    release: Release
    policy: Path  # the program's own with wide limits

    def picture(self) -> Picture:
        """Always the same, for as long as the same version serves."""
        return self.stack.gateway(self.key, adapter=self.name, **ASKED)

    def atelier(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        told = {
            "ATELIER_HOME": str(self.stack.home.root),
            "MLFLOW_TRACKING_URI": self.stack.tracking_uri,
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(
            [sys.executable, "-m", "commands", *words],
            env={**os.environ, **told},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=1400,
            check=False,
        )

    def named(self, alias: str) -> int | None:
        """The version that an alias names."""
        found = self.stack.registry.aliased(self.name, alias)
        return found.version if found else None


@pytest.fixture(scope="module")
def production(learnt: Learnt, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """Its first version is the character's, promoted by its verdict."""
    env = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    stack = ServedStack(tmp_path_factory.mktemp("production"), BASE.resolve(), env=env)
    stack.start()
    try:
        name = learnt.evaluation.adapter
        folder = learnt.folder / "evaluation"
        version = register(learnt.trained, learnt.evaluation, folder, stack.registry)
        key = KeyStore(f"sqlite:///{stack.home.root / 'gateway.db'}").create("a service")[0]
        release = Release(
            adapter=name,
            base=learnt.evaluation.base,
            version=version,
            digest=learnt.evaluation.digest,
        )
        policy = stack.home.root / "policy.yaml"
        policy.write_text(yaml.safe_dump(mild()))
        made = Production(stack, name, key, release, policy)
        done = made.atelier("promote", name, str(version), "--policy", str(policy), "--wait", "400")
        assert done.returncode == 0, done.stderr
        yield made
    finally:
        assert stack.stop() == 0, stack.said()


def mild() -> dict[str, Any]:
    """The program's policy, with limits that every character passes that was learnt at all."""
    said = Policy.load().model_dump(mode="json", exclude_none=True)
    del said["gates"]["retrieval"]
    wide = {"subject": {"min": 0.35}, "class_drift": {"max": 0.8}, "leak": {"max": 1.0}}
    return said | {"gates": said["gates"] | wide}


def bad_recipe(folder: Path, name: str, mistakes: dict[str, Any], pictures: str = "*.png") -> Path:
    """The demo's with mistakes, for the adapter that serves."""
    document = yaml.safe_load(DEMO.read_text())
    del document["validation"], document["checkpoint"], document["look_alikes"]
    document |= {"adapter": name, "tracking": {"mlflow": False}}
    document["base"]["model"] = str(BASE.resolve())
    (stage,) = document["stages"]
    for key, said in mistakes.items():
        stage[key] = stage[key] | said if isinstance(said, dict) else said
    (folder / "images").mkdir()
    shown = {file.name: file for file in (DEMO.parent / "images").glob(pictures)}
    for file in shown.values():
        shutil.copy(file, folder / "images")
    lines = (DEMO.parent / "images/metadata.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["file_name"] in shown]
    (folder / "images/metadata.jsonl").write_text("\n".join(kept))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
    return folder / "recipe.yaml"


@pytest.mark.parametrize(
    ("mistakes", "pictures", "gate", "reason"),
    [
        (
            UNDERTRAINED,
            "*.png",
            "subject",
            "undertrained: the subject is not recognised; train longer",
        ),
        (COPYING, "01-*.png", "copying", "copied: a training picture is reproduced"),
        (DRIFTING, "*.png", "drift", "drift: prompts that do not name the subject"),
    ],
    ids=["undertrained", "copying", "drifting"],
)
def test_a_bad_adapter_is_refused_and_what_serves_stays(
    production: Production,
    mistakes: dict[str, Any],
    pictures: str,
    gate: str,
    reason: str,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    before = production.picture()
    recipe = bad_recipe(tmp_path, production.name, mistakes, pictures)
    under = ("--policy", str(production.policy))
    done = production.atelier("run", str(recipe), *under)
    assert done.returncode == 1, done.stderr
    version = production.named("candidate")  # kept, with its verdict, for whoever asks why
    assert version is not None and version != production.release.version
    assert f"{production.name}@{version}: refused" in done.stdout
    assert reason in done.stdout

    judged = verdict(production, version)
    failed = next(one for one in judged.gates if one.name == gate and not one.passed)
    record_property(f"{gate} of the bad one", f"{failed.value} (limit {failed.threshold})")
    assert f"{failed.value:.3f}" in done.stdout and failed.pictures[0] in done.stdout
    assert not judged.accepted

    asked = production.atelier("promote", production.name, str(version), *under)
    assert asked.returncode == 1 and reason in asked.stderr
    stays(production, before)


def test_a_bad_dataset_is_stopped_before_anything_is_trained(
    production: Production, tmp_path: Path
) -> None:
    before, candidate = production.picture(), production.named("candidate")
    recipe = bad_recipe(tmp_path, production.name, {})
    damaged = tmp_path / "images/03-desert.png"
    damaged.write_bytes(damaged.read_bytes()[:200])  # an upload that broke off
    done = production.atelier("run", str(recipe))
    assert done.returncode == 2
    assert "03-desert.png" in done.stderr
    assert production.named("candidate") == candidate
    stays(production, before)


def verdict(production: Production, version: int) -> Evaluation:
    """What the registry keeps of it."""
    registry = production.stack.registry
    found = attested_evaluation(registry, registry.version(production.name, version))
    assert found is not None
    return found


def stays(production: Production, before: Picture) -> None:
    """The release, the alias and the pixels are what they were."""
    release = production.stack.releases.get(production.name)
    assert release is not None
    assert release.pin == production.release.pin
    assert production.named("local") == production.release.version
    after = production.picture()
    assert after.digest == production.release.digest
    assert np.array_equal(after.pixels, before.pixels)
