"""A training Job's container: from digests in MLflow to a candidate, however often it is ended."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from atelier.adapter.package import ADAPTER
from atelier.data.policy import Policy
from atelier.data.recipe import Recipe
from atelier.platform.api import NotFound
from atelier.platform.jobs import SPEC_TAG, TrainingSpec
from atelier.stores.artifacts import Artifacts
from atelier.stores.registry import Registry
from commands.main import app
from commands.train.submit import _answer
from pipelines.delivery.approval import accepted_evaluation
from pipelines.evaluate import attest, attested_evaluation
from pipelines.job_inputs import pack, upload
from pipelines.submission import TrainingResult, earlier_result
from pipelines.train import train
from tests.judged import drawn, evaluation, policy, tiny_scorers
from tests.promoted import package
from tests.training import last_step, make_studio, recipe

POLICY = {
    "seeds": {"first": 2, "most": 2},
    "prompts": {"subject": ["a photo of {trigger}"], "unrelated": ["a red house"]},
    "steps": 2,
    "gates": {"effect": {"min": 0.0}},
}


def asked(studio: Path) -> Recipe:
    """The recipe of the Jobs; training does not use two of its five pictures."""
    changes = {"tracking__mlflow": True, "stages__0__dataset__hold_back": 2}
    return recipe(studio, **changes, look_alikes="other cats")


@dataclass(frozen=True)
class Workshop:
    """A recipe in a folder of its own, and a registry that holds what it names."""

    studio: Path
    tracking_uri: str
    spec: TrainingSpec
    scorers: dict[str, str]

    def policy(self, file: Path, **changes: object) -> Path:
        file.write_text(yaml.safe_dump({"scorers": self.scorers, **POLICY, **changes}))
        return file


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """As `atelier submit` leaves it."""
    studio = make_studio(tmp_path_factory.mktemp("studio"))
    (studio / "other cats").mkdir()
    Image.new("RGB", (96, 96), (200, 30, 90)).save(studio / "other cats/0.png")
    uri = f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}"
    artifacts = Artifacts(uri)
    parcel = pack(asked(studio), lambda: artifacts)
    assert len(upload(parcel, artifacts)) == 4  # base, pictures, look-alikes, recipe
    assert upload(parcel, artifacts) == []
    folders = tiny_scorers(studio / "scorers", studio / "base/tokenizer")
    scorers = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        for role, folder in folders.items():
            said = CliRunner().invoke(app, ["scorer", "import", folder, "--json"])
            assert said.exit_code == 0, said.stderr
            scorers[role] = json.loads(said.stdout)["uri"]
    return Workshop(studio, uri, parcel.spec, scorers)


def start(workshop: Workshop, volume: Path, policy: Path, **spec: object) -> subprocess.Popen[str]:
    """One pod: nothing of the recipe's folder, only the volume that outlives it."""
    volume.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pipelines.training_job",
        "--policy",
        str(policy),
        "--patience",
        "1",
    ]
    command += ["--spec", workshop.spec.model_copy(update=spec).model_dump_json()]
    env = {**os.environ, "ATELIER_HOME": str(volume), "OMP_NUM_THREADS": "1"}
    env |= {"MLFLOW_TRACKING_URI": workshop.tracking_uri, "ATELIER_GIT_COMMIT": "c" * 40}
    return subprocess.Popen(command, cwd=volume, env=env, stderr=subprocess.PIPE, text=True)


def ended(pod: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        _, said = pod.communicate(timeout=500)
    finally:
        pod.kill()
    return pod.returncode, said


def test_a_pod_is_evicted_and_the_next_one_goes_on(workshop: Workshop, tmp_path: Path) -> None:
    """Bit for bit: the adapter is what the recipe trains here without an interruption."""
    policy, volume = workshop.policy(tmp_path / "policy.yaml"), tmp_path / "volume"
    first = start(workshop, volume, policy)
    output = volume / "runs/tiny-cat" / workshop.spec.digest.removeprefix("sha256:")[:12]
    while last_step(output) < 2:
        assert first.poll() is None, ended(first)
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    code, said = ended(first)
    assert code == 143, said
    assert list((output / "checkpoints").iterdir())

    code, said = ended(start(workshop, volume, policy))
    assert code == 0, said
    assert "resumed after step" in said

    registry = Registry(workshop.tracking_uri)
    (info,) = registry.versions("tiny-cat")
    assert info.tags[SPEC_TAG] == workshop.spec.digest
    assert info.aliases == ("candidate",)
    judged = json.loads(registry.attestation(info, "evaluation.json") or b"")
    assert judged["scorers"] == workshop.scorers
    assert judged["measures"]["references"]["held_back"] is True
    assert judged["measures"]["references"]["look_alikes"] == ["other cats"]
    made = registry.fetch(info, tmp_path / "made")
    references = [one["digest"] for one in judged["measures"]["references"]["pictures"]]
    assert sorted(references) == list(made.manifest.held_back)
    assert made.manifest.base.id == recipe(workshop.studio).base.model
    assert made.manifest.git_commit == "c" * 40
    here = train(asked(workshop.studio), output=tmp_path / "unbroken")
    assert (made.path / ADAPTER).read_bytes() == (here.package.path / ADAPTER).read_bytes()

    # Made once: another Job of the same digests finds it, and trains nothing.
    code, said = ended(start(workshop, tmp_path / "empty", policy))
    assert code == 0, said
    assert "exists already; it was made from the same inputs" in said
    assert not (tmp_path / "empty/runs").exists()
    # Under a stricter policy it is judged anew, and refused; the version stays the same one.
    strict = workshop.policy(tmp_path / "strict.yaml", gates={"effect": {"min": 0.99}})
    code, said = ended(start(workshop, volume, strict))
    assert code == 1, said
    assert "is refused" in said
    # So it is by a Job with a claim of its own, which fetches the version and trains nothing.
    other = workshop.policy(tmp_path / "other.yaml", seeds={"first": 3, "most": 3})
    code, said = ended(start(workshop, tmp_path / "empty", other))
    assert code == 0, said
    assert not list((tmp_path / "empty/runs").rglob("checkpoints"))
    assert len(registry.versions("tiny-cat")) == 1
    # Each policy has its verdict, however many judge after it.
    for file, accepted in ((policy, True), (strict, False), (other, True)):
        under = Policy.load(file).digest
        verdict = attested_evaluation(registry, info, under)
        assert verdict is not None and (verdict.policy, verdict.accepted) == (under, accepted)


class Namespace:
    """The API server's answers about the policies that are there."""

    def __init__(self, **policies: Policy) -> None:
        self.policies = {f"policy-{name}": policy for name, policy in policies.items()}

    def get(self, path: str, name: str) -> dict[str, object]:
        if name not in self.policies:
            raise NotFound(name)
        said = self.policies[name].model_dump(mode="json")
        return {"data": {"policy.yaml": yaml.safe_dump(said)}}


def test_submit_answers_for_the_policy_that_is_asked_and_leaves_others_to_a_job(
    tmp_path: Path,
) -> None:
    nothing = "sha256:" + "0" * 64
    spec = TrainingSpec(adapter="thor-cat", recipe=nothing, base=nothing, datasets=(nothing,))
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")
    made = package(tmp_path / "made", "thor-cat", 1)
    version = registry.register(made, run_id=None, tags={SPEC_TAG: spec.digest})
    staging, production = policy(), policy(seeds={"first": 3, "most": 3})
    about = {"digest": made.digest, "decision": "accepted"}
    info = registry.version("thor-cat", version)
    attest(registry, info, drawn(evaluation(staging, **about), tmp_path), tmp_path)
    policies: Any = Namespace(staging=staging, production=production)

    def earlier(environment: str) -> TrainingResult | None:
        return earlier_result(spec, environment, registry, lambda: policies)

    result = earlier("staging")
    assert result is not None
    answer = _answer(result, spec, "staging")
    assert answer.data["version"] == version and answer.data["job"] is None
    assert "accepted by the policy of staging" in answer.text
    assert earlier("production") is None  # judged anew, by a Job
    assert earlier("nowhere") is None  # whose pod says what is missing
    about["decision"] = "refused"
    attest(registry, info, drawn(evaluation(production, **about), tmp_path), tmp_path)
    results = [earlier(environment) for environment in ("staging", "production")]
    assert [result.exit_code for result in results if result] == [0, 1]
    # A promotion finds its own policy's verdict too, whichever judged last.
    assert accepted_evaluation(registry, info, staging).policy == staging.digest


def test_several_processes_are_stopped_and_go_on_as_one(workshop: Workshop, tmp_path: Path) -> None:
    """Only the first process of a pod hears SIGTERM; the launcher passes it on."""
    policy, volume = workshop.policy(tmp_path / "policy.yaml"), tmp_path / "volume"
    spec = workshop.spec.model_copy(update={"processes": 2})
    output = volume / "runs/tiny-cat" / spec.digest.removeprefix("sha256:")[:12]
    first = start(workshop, volume, policy, processes=2)
    while last_step(output) < 1:
        assert first.poll() is None, ended(first)
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    code, said = ended(first)
    assert code == 143, said
    assert list((output / "checkpoints").iterdir())
    code, said = ended(start(workshop, volume, policy, processes=2))
    assert code == 0, said
    assert "resumed after step" in said
    known = Registry(workshop.tracking_uri).made_from("tiny-cat", SPEC_TAG, spec.digest)
    assert known is not None and "candidate" in known.aliases
    assert known.tags["atelier.recipe"] == spec.recipe


def test_bad_input_and_a_registry_that_is_away_are_told_apart(
    workshop: Workshop, tmp_path: Path
) -> None:
    policy = workshop.policy(tmp_path / "policy.yaml")
    nothing = "sha256:" + "0" * 64
    code, said = ended(start(workshop, tmp_path / "a", policy, base=nothing))
    assert code == 2, said
    assert f"mlflow://bases/{'0' * 64}: is not in MLflow" in said
    away = Workshop(workshop.studio, "http://127.0.0.1:9", workshop.spec, workshop.scorers)
    code, said = ended(start(away, tmp_path / "b", policy))
    assert code == 3, said
