"""Jobs on a real API server with its real Job controller; only the pods' ends are told.

What a kubelet would report is written into the pods' status, so that every way to end is seen: what
counts, what ends the Job, what goes on. All of it with the rights that k8s/ gives to trainers.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from atelier.data.names import ArtifactRef
from atelier.data.policy import DEFAULT, Policy
from atelier.platform import Api
from atelier.platform.api import CONFIG_MAPS, NotFound
from atelier.platform.jobs import (
    SPEC_TAG,
    CompilationSpec,
    Follower,
    JobOptions,
    JobOutcome,
    TrainingSpec,
    Work,
    policy_of,
    stop_job,
    submit_job,
)
from atelier.platform.jobs.follower import CLAIMS, JOBS, PODS, finished
from atelier.stores.artifacts import Artifacts
from atelier.stores.base_files import base_digest
from atelier.stores.registry import Registry
from services.triton.process import spawn
from tests.cluster.apiserver import ADMIN, ApiServer, missing, until
from tests.cluster.local.tools import program
from tests.promoted import package
from tests.training import Server

ROOT = Path(__file__).resolve().parents[3]
NAMESPACE = "atelier-training"
HEX = "sha256:" + "0123456789abcdef" * 4
OPTIONS = JobOptions(image="registry.example/atelier-train:1")
CONTROLLERS = (
    "job-controller",
    "garbage-collector-controller",
    "persistentvolumeclaim-protection-controller",
)


def objects(name: str) -> list[dict[str, Any]]:
    """Those of a file of k8s/."""
    return [one for one in yaml.safe_load_all((ROOT / "k8s" / name).read_text()) if one]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server with the namespace that trains, and the controllers that look after Jobs."""
    manager = program("kube-controller-manager")
    if why := missing() or ("" if manager.exists() else f"no {manager}: `make cluster-tools`"):
        pytest.skip(why)
    made = ApiServer(tmp_path_factory.mktemp("apiserver"))
    controller = None
    try:
        made.start("trainer")
        admin = made.api(NAMESPACE)
        for one in objects("namespaces.yaml"):
            admin.create("/api/v1/namespaces", one)
        for one in objects("priorities.yaml"):
            admin.create("/apis/scheduling.k8s.io/v1/priorityclasses", one)
        (role,) = (one for one in objects("training.yaml") if one["kind"] == "Role")
        made.allow(NAMESPACE, "trainer", role["rules"])
        command = [str(manager), f"--kubeconfig={made.kubeconfig(ADMIN)}", "--secure-port=0"]
        command += ["--leader-elect=false", f"--controllers={','.join(CONTROLLERS)}"]
        log = made.folder / "controllers.log"
        controller = spawn(command, env=dict(os.environ), log=log, when_orphaned=signal.SIGKILL)
        yield made
    finally:
        if controller is not None:
            controller.kill()
            controller.wait(60)
        made.stop()


@pytest.fixture
def api(server: ApiServer) -> Api:
    """A trainer's."""
    return server.api(NAMESPACE, "trainer")


def training(adapter: str) -> Work:
    spec = TrainingSpec(adapter=adapter, recipe=HEX, base=HEX, datasets=(HEX,))
    return spec.work("staging")


def compilation(image: str) -> Work:
    return CompilationSpec(base=HEX, backend="onnx", precision="fp32", image=image).work()


def pods(api: Api, job: dict[str, Any], *, running: bool = False) -> list[str]:
    selector = f"batch.kubernetes.io/controller-uid={job['metadata']['uid']}"
    found, _ = api.list(PODS, [("labelSelector", selector)])
    waiting = [one for one in found if one["status"].get("phase") == "Pending"]
    return [one["metadata"]["name"] for one in (waiting if running else found)]


def end(server: ApiServer, job: dict[str, Any], code: int, *, evicted: bool = False) -> None:
    """Say that the Job's pod has ended, as a kubelet would."""
    api = server.api(NAMESPACE)
    until(lambda: pods(api, job, running=True))
    (pod,) = pods(api, job, running=True)
    ended = {"terminated": {"exitCode": code, "finishedAt": "2026-01-01T00:00:00Z"}}
    about = {"name": "job", "image": "i", "imageID": "i", "ready": False, "restartCount": 0}
    conditions = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]
    status = {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [{**about, "state": ended}],
        "conditions": conditions if evicted else [],
    }
    command = [program("kubectl"), "--kubeconfig", server.kubeconfig(ADMIN), "-n", NAMESPACE]
    command += ["patch", "pod", pod, "--subresource=status", "--type=merge"]
    subprocess.run([*command, "-p", json.dumps({"status": status})], check=True)


def failures(api: Api, job: dict[str, Any]) -> int:
    return int(api.get(JOBS, job["metadata"]["name"])["status"].get("failed", 0))


def test_only_what_may_pass_is_tried_again_and_only_failures_count(
    server: ApiServer, api: Api
) -> None:
    job, made = submit_job(api, training("thor-cat"), OPTIONS)
    assert made
    assert submit_job(api, training("thor-cat"), OPTIONS)[1] is False
    told: list[str] = []
    outcomes: list[JobOutcome] = []
    follower = Follower(api, job["metadata"]["name"], told.append)
    following = threading.Thread(target=lambda: outcomes.append(follower.follow()))
    following.start()

    end(server, job, 143)  # SIGTERM, with a checkpoint
    until(lambda: len(pods(api, job)) == 2)
    end(server, job, 137, evicted=True)  # killed after its grace period
    until(lambda: len(pods(api, job)) == 3)
    assert failures(api, job) == 0
    end(server, job, 3)  # MLflow was away
    until(lambda: failures(api, job) == 1)
    until(lambda: len(pods(api, job)) == 4, seconds=60)  # ten seconds later
    assert finished(api.get(JOBS, job["metadata"]["name"])) is None
    end(server, job, 2)  # bad input
    following.join(60)
    (outcome,) = outcomes
    assert (outcome.succeeded, outcome.exit_code) == (False, 2)
    assert "exit code 2 matching FailJob rule" in outcome.reason
    assert [line.rpartition(" ")[2] for line in told if "ended" in line] == ["143", "137", "3", "2"]


def test_a_failed_job_makes_way_and_one_that_succeeded_does_not(
    server: ApiServer, api: Api
) -> None:
    first, _ = submit_job(api, training("robot"), OPTIONS)
    name = first["metadata"]["name"]
    checkpoints = api.get(CLAIMS, name)["metadata"]["uid"]
    end(server, first, 1)
    until(lambda: finished(api.get(JOBS, name)) is not None)
    second, made = submit_job(api, training("robot"), OPTIONS)
    assert made and second["metadata"]["uid"] != first["metadata"]["uid"]
    until(lambda: not pods(api, first))  # nothing of it is left behind, but
    claim = api.get(CLAIMS, name)  # what it had reached
    assert claim["metadata"]["uid"] == checkpoints and "deletionTimestamp" not in claim["metadata"]
    assert claim["metadata"]["ownerReferences"][0]["uid"] == second["metadata"]["uid"]
    end(server, second, 0)
    outcome = Follower(api, name, lambda line: None).follow()
    assert (outcome.succeeded, outcome.exit_code) == (True, 0)
    third, made = submit_job(api, training("robot"), OPTIONS)
    assert not made and third["metadata"]["uid"] == second["metadata"]["uid"]


def test_a_stopped_job_leaves_its_checkpoints_to_the_next(server: ApiServer, api: Api) -> None:
    work = training("stopped")
    assert not stop_job(api, work)
    job, _ = submit_job(api, work, OPTIONS)
    claim = api.get(CLAIMS, work.name)
    assert stop_job(api, work)
    with pytest.raises(NotFound):
        api.get(JOBS, work.name)
    again, made = submit_job(api, work, OPTIONS)
    assert made and again["metadata"]["uid"] != job["metadata"]["uid"]
    kept = api.get(CLAIMS, work.name)
    assert kept["metadata"]["uid"] == claim["metadata"]["uid"]
    assert [one["uid"] for one in kept["metadata"]["ownerReferences"]] == [again["metadata"]["uid"]]
    assert stop_job(api, work)
    assert not stop_job(api, work)


def test_a_compilation_is_submitted_with_the_same_rights_and_fails_at_once_too(
    server: ApiServer, api: Api
) -> None:
    job, made = submit_job(api, compilation("sha256:1"), OPTIONS)
    name = job["metadata"]["name"]
    assert made and name.startswith("compile-onnx-")
    assert submit_job(api, compilation("sha256:1"), OPTIONS)[1] is False
    other, made = submit_job(api, compilation("sha256:2"), OPTIONS)
    assert made and other["metadata"]["name"] != name
    owner = api.get(CLAIMS, name)["metadata"]["ownerReferences"][0]
    assert owner["uid"] == job["metadata"]["uid"]
    end(server, job, 137, evicted=True)
    until(lambda: len(pods(api, job)) == 2)
    assert failures(api, job) == 0
    end(server, job, 1)  # does not compute what torch does
    outcome = Follower(api, name, lambda line: None).follow()
    assert (outcome.succeeded, outcome.exit_code) == (False, 1)
    end(server, other, 0)
    assert Follower(api, other["metadata"]["name"], lambda line: None).follow().succeeded


def test_following_a_compilation_ends_with_the_address_of_the_engine(
    server: ApiServer, api: Api, tmp_path: Path
) -> None:
    """`atelier compile --submit --follow`; what the pod would put into MLflow is put by this test,
    the pod's own command is run by tests/integration/test_compile_job.py."""
    base = tmp_path / "base"
    (base / "unet").mkdir(parents=True)
    (base / "model_index.json").write_text('{"unet": ["diffusers", "X"]}')
    (base / "unet" / "config.json").write_text("{}")
    (base / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "engine.json").write_text("{}")
    ref = ArtifactRef("engines", "e" * 64)
    with Server(tmp_path) as mlflow:
        words = ["compile", str(base), "--submit", "--image", "i@sha256:1", "--follow", "--json"]
        env = {**os.environ, "MLFLOW_TRACKING_URI": mlflow.uri, "PYTHONPATH": str(ROOT)}
        env["KUBECONFIG"] = str(server.kubeconfig("trainer"))
        command = [sys.executable, "-m", "commands", *words]
        following = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE)
        try:
            artifacts = Artifacts(mlflow.uri)
            digest = base_digest(base)
            spec = CompilationSpec(base=digest, backend="onnx", precision="fp32", image="sha256:1")

            def made() -> bool:
                jobs, _ = server.api(NAMESPACE).list(JOBS)
                return spec.job_name in {one["metadata"]["name"] for one in jobs}

            until(made, seconds=60)
            job = api.get(JOBS, spec.job_name)
            assert artifacts.exists(ArtifactRef.of("bases", digest))
            artifacts.put(ref, tmp_path / "engine")
            artifacts.mark(ref, spec.digest)
            end(server, job, 0)
            out, _ = following.communicate(timeout=120)
        finally:
            following.kill()
        told = json.loads(out)
        assert following.returncode == 0 and told["uri"] == str(ref)
        assert told["uploaded"] == [f"mlflow://bases/{digest.removeprefix('sha256:')}"]
        again = subprocess.run(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, check=True)
        assert json.loads(again.stdout)["job"] is None  # found, not repeated


@pytest.mark.parametrize("code", [0, 1], ids=["accepted", "refused"])
def test_following_a_training_ends_with_the_version_that_it_made(
    server: ApiServer, api: Api, tmp_path: Path, code: int
) -> None:
    """What the pod would register is registered by this test: a Job whose verdict refuses has
    registered its version too, whose numbers a workflow is to show."""
    shutil.copytree(ROOT / "examples" / "thor-cat", tmp_path / "recipe")
    base = tmp_path / "base"
    (base / "unet").mkdir(parents=True)
    (base / "model_index.json").write_text('{"unet": ["diffusers", "X"]}')
    (base / "unet" / "config.json").write_text("{}")
    (base / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    recipe = yaml.safe_load((tmp_path / "recipe/recipe.yaml").read_text())
    recipe |= {"base": {"model": str(base)}, "adapter": f"cat-{code}"}
    (tmp_path / "recipe/recipe.yaml").write_text(yaml.safe_dump(recipe))
    outputs = tmp_path / "outputs"
    outputs.write_text("before=1\n")
    with Server(tmp_path) as mlflow:
        words = ["submit", "recipe/recipe.yaml", "--image", "i@sha256:1", "--follow", "--json"]
        env = {**os.environ, "MLFLOW_TRACKING_URI": mlflow.uri, "PYTHONPATH": str(ROOT)}
        env["KUBECONFIG"] = str(server.kubeconfig("trainer"))
        command = [sys.executable, "-m", "commands", *words, "--github-output", str(outputs)]
        following = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE)
        try:
            mine = [("labelSelector", f"atelier.dev/adapter=cat-{code}")]
            admin = server.api(NAMESPACE)
            until(lambda: admin.list(JOBS, mine)[0], seconds=120)
            ((job,), _) = admin.list(JOBS, mine)
            spec = TrainingSpec.parse(job["metadata"]["annotations"]["atelier.dev/spec"])
            made = package(tmp_path / "package", spec.adapter, 1)
            tags = {SPEC_TAG: spec.digest}
            version = Registry(mlflow.uri).register(made, run_id=None, tags=tags)
            end(server, job, code)
            out, _ = following.communicate(timeout=120)
        finally:
            following.kill()
    assert (following.returncode, json.loads(out)["version"]) == (code, version)
    assert outputs.read_text() == f"before=1\nadapter=cat-{code}\nversion={version}\n"


def test_a_queued_job_waits_to_be_admitted(api: Api) -> None:
    queued = JobOptions(image="i", queue="gpu", priority="atelier-urgent", gpus=2, volume="shared")
    job, made = submit_job(api, training("queued"), queued)
    told: list[str] = []
    follower = Follower(api, job["metadata"]["name"], told.append)
    assert made and follower._look() is None
    assert told == ["waits in queue gpu"]
    with pytest.raises(NotFound):
        api.get(CLAIMS, job["metadata"]["name"])


class Watched(Api):
    """A trainer's API, and what was asked of it, as a role names it."""

    def __init__(self, api: Api) -> None:
        super().__init__(api._client, api.namespace)
        self.asked: set[tuple[str, str, str]] = set()

    def _request(self, method: str, path: str, **given: Any) -> Any:
        names = path.partition("/namespaces/{namespace}/")
        group = names[0].removeprefix("/apis/").rpartition("/")[0] if "/apis/" in path else ""
        resource, name, part = [*names[2].split("/"), "", ""][:3]
        reads = "get" if name else "list"
        verb = {"GET": reads, "POST": "create", "PUT": "update"}.get(method, method.lower())
        self.asked.add((group, f"{resource}/{part}".rstrip("/"), verb))
        return super()._request(method, path, **given)


def test_the_rights_of_trainers_are_those_that_are_used(server: ApiServer, api: Api) -> None:
    """Neither fewer (a role that lacks one refuses) nor more."""
    said = {"metadata": {"name": "policy-staging"}, "data": {"policy.yaml": DEFAULT.read_text()}}
    server.api(NAMESPACE).create(CONFIG_MAPS, said)
    watched = Watched(api)
    found = policy_of(watched, "staging")
    assert found is not None and found.digest == Policy.load().digest
    assert policy_of(watched, "production") is None
    job, _ = submit_job(watched, training("watched"), OPTIONS)
    end(server, job, 2)
    assert Follower(watched, job["metadata"]["name"], lambda line: None).follow().exit_code == 2
    assert submit_job(watched, training("watched"), OPTIONS)[1]

    (role,) = (one for one in objects("training.yaml") if one["kind"] == "Role")
    given = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert watched.asked == given
