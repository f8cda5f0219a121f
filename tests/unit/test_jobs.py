"""Jobs as the API server gets them, what decides about their names, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from atelier.errors import BadInput
from atelier.platform.api import Conflict, NotFound
from atelier.platform.jobs import (
    CompilationSpec,
    JobOptions,
    TrainingSpec,
    claim_object,
    image_identity,
    job_object,
    submit_job,
)
from atelier.platform.jobs.follower import CLAIMS, JOBS, Follower, JobOutcome
from commands.job_options import JobChoices

K8S = Path(__file__).resolve().parents[2] / "k8s"
HEX = "sha256:" + "0123456789abcdef" * 4
SPEC = TrainingSpec(adapter="thor-cat", recipe=HEX, base=HEX, datasets=(HEX,))
COMPILATION = CompilationSpec(base=HEX, backend="onnx", precision="fp32", image="sha256:1")


def job(**options: Any) -> dict[str, Any]:
    made = JobOptions(image="registry/atelier-train@sha256:1", **options)
    return job_object(SPEC.work("staging"), made)


def pod(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["spec"]["template"]["spec"]
    return found


def test_equal_specs_have_one_name_and_others_another() -> None:
    same = TrainingSpec.parse(SPEC.model_dump_json())
    assert same == SPEC
    names = {
        SPEC.job_name("staging"),
        SPEC.job_name("production"),
        SPEC.model_copy(update={"processes": 2}).job_name("staging"),
        SPEC.model_copy(update={"vae": HEX}).job_name("staging"),
    }
    assert len(names) == 4
    assert same.job_name("staging") == SPEC.job_name("staging")
    assert SPEC.job_name("staging").startswith("train-thor-cat-")
    longest = SPEC.model_copy(update={"adapter": "a" * 53}).job_name("staging")
    assert len(longest) <= 63 and longest.split("-")[-1] != SPEC.job_name("staging").split("-")[-1]


def test_a_spec_is_read_strictly() -> None:
    with pytest.raises(BadInput, match="--spec: recipe: missing"):
        TrainingSpec.parse('{"adapter": "thor-cat"}')
    with pytest.raises(BadInput, match="--spec: steps: unknown key"):
        TrainingSpec.parse(SPEC.model_dump_json()[:-1] + ', "steps": 3}')


def test_a_bad_recipe_fails_at_once_and_a_pod_that_was_taken_away_counts_for_nothing() -> None:
    spec = job()["spec"]
    assert spec["podReplacementPolicy"] == "Failed"
    assert (spec["completions"], spec["parallelism"]) == (1, 1)
    assert spec["backoffLimit"] >= 3  # what may pass: exit code 3, and what nobody foresaw
    assert spec["ttlSecondsAfterFinished"] > 2 * 86400  # over a weekend: its claim goes with it
    rules = spec["podFailurePolicy"]["rules"]
    disrupted, final, stopped = rules
    assert disrupted == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    assert (final["action"], final["onExitCodes"]["values"]) == ("FailJob", [1, 2])
    assert (stopped["action"], stopped["onExitCodes"]["values"]) == ("Ignore", [143])
    names = {one["name"] for one in pod(job())["containers"]}
    assert {rule["onExitCodes"]["containerName"] for rule in (final, stopped)} == names
    assert pod(job())["restartPolicy"] == "Never"  # which a podFailurePolicy asks for
    assert pod(job())["terminationGracePeriodSeconds"] >= 60
    assert pod(job())["shareProcessNamespace"]  # SIGTERM ends what has not said yet what it does


def test_pod_security_restricted_lets_it_in() -> None:
    inside = pod(job(gpus=2))
    (container,) = inside["containers"]
    assert inside["securityContext"]["runAsNonRoot"] is True
    assert inside["securityContext"]["runAsUser"] == 10001
    assert inside["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    kinds = {kind for volume in inside["volumes"] for kind in set(volume) - {"name"}}
    assert kinds <= {"persistentVolumeClaim", "configMap", "emptyDir"}
    assert inside["automountServiceAccountToken"] is False


def test_addresses_and_credentials_come_from_secrets() -> None:
    (container,) = pod(job())["containers"]
    env = {one["name"]: one for one in container["env"]}
    uri = env["MLFLOW_TRACKING_URI"]["valueFrom"]["secretKeyRef"]
    assert uri == {"name": "atelier-mlflow", "key": "MLFLOW_TRACKING_URI", "optional": False}
    assert env["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"] is True
    assert env["ATELIER_HOME"]["value"] == "/var/lib/atelier"
    assert "--spec" in container["command"]
    assert TrainingSpec.parse(container["command"][-1]) == SPEC


def test_a_training_pulls_by_the_secret_that_serving_pulls_by() -> None:
    applied = yaml.safe_load_all((K8S / "training.yaml").read_text())
    (account,) = (one for one in applied if one["kind"] == "ServiceAccount")
    assert account["metadata"]["name"] == JobOptions().service_account
    for values in K8S.glob("environments/*/platform.yaml"):
        image = yaml.safe_load(values.read_text())["image"]
        assert account["imagePullSecrets"] == image["pullSecrets"]


def test_the_checkpoint_outlives_the_pod() -> None:
    made = job()
    name = made["metadata"]["name"]
    volumes = {one["name"]: one for one in pod(made)["volumes"]}
    assert volumes["home"]["persistentVolumeClaim"]["claimName"] == name
    assert volumes["policy"]["configMap"]["name"] == "policy-staging"
    options = JobOptions(volume_size="20Gi", volume_class="fast")
    claim = claim_object(SPEC.work("staging"), options, {"metadata": {"name": name, "uid": "42"}})
    assert claim is not None
    assert claim["spec"]["resources"]["requests"]["storage"] == "20Gi"
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["metadata"]["ownerReferences"][0]["uid"] == "42"  # it goes with the Job
    own = {one["name"]: one for one in pod(job(volume="shared"))["volumes"]}
    assert own["home"]["persistentVolumeClaim"]["claimName"] == "shared"
    assert claim_object(SPEC.work("staging"), JobOptions(volume="shared"), made) is None


def test_a_compilation_is_a_job_of_the_same_kind() -> None:
    """All that differs is what is said of it, its command, and what of the namespace it sees."""
    options = JobOptions(image="registry/atelier-train@sha256:1", queue="cpu")
    training, compilation = job(queue="cpu"), job_object(COMPILATION.work(), options)
    name = compilation["metadata"]["name"]
    assert (
        name
        == COMPILATION.job_name
        == compilation["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"][
            "claimName"
        ]
    )
    (container,), (trains,) = pod(compilation)["containers"], pod(training)["containers"]
    assert container["command"][:3] == ["python", "-m", "pipelines.compile.compile_job"]
    assert CompilationSpec.parse(container["command"][-1]) == COMPILATION
    seen = {one["name"] for one in container["env"]}
    assert seen == {one["name"] for one in trains["env"]} - {"HF_TOKEN", "WANDB_API_KEY"}
    assert [one["name"] for one in pod(compilation)["volumes"]] == ["home", "tmp"]
    assert compilation["metadata"]["labels"]["app.kubernetes.io/name"] == "atelier-compile"
    assert not [label for label in compilation["metadata"]["labels"] if "adapter" in label]
    for of in (compilation, training):
        (inside,) = pod(of)["containers"]
        for key in ("command", "env", "volumeMounts"):
            del inside[key]
        for about in (of["metadata"], of["spec"]["template"]["metadata"]):
            about.clear()
        del of["spec"]["template"]["spec"]["volumes"]
    assert compilation == training


def test_what_decides_about_an_engine_decides_about_its_job() -> None:
    assert CompilationSpec.parse(COMPILATION.model_dump_json()) == COMPILATION
    changes: list[dict[str, Any]] = [
        {},
        {"backend": "tensorrt"},
        {"precision": "fp16"},
        {"batches": (2,)},
        {"sizes": ((64, 64),)},
        {"rank": 8},
        {"slots": 4},
        {"gpu_kind": "NVIDIA-H100-80GB-HBM3"},
        {"image": "sha256:2"},
        {"base": HEX.replace("0", "1")},
    ]
    names = [COMPILATION.model_copy(update=change).job_name for change in changes]
    assert len(set(names)) == len(changes)
    assert names[0].startswith("compile-onnx-") and names[1].startswith("compile-tensorrt-")
    assert all(len(name) <= 63 for name in names)
    assert image_identity("a.example/x@sha256:1") == image_identity("b.example:5000/y@sha256:1")
    assert image_identity("a.example:5000/x:1") == "a.example:5000/x:1"
    with pytest.raises(BadInput, match="--spec: precision: must be 'fp32' or 'fp16', is "):
        CompilationSpec.parse(COMPILATION.model_dump_json().replace("fp32", "bf16"))


def test_gpus_come_from_the_pool() -> None:
    inside = pod(job(gpus=2))
    (container,) = inside["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert container["resources"]["requests"]["nvidia.com/gpu"] == "2"
    wanted = inside["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = wanted["nodeSelectorTerms"]
    pool = {"key": "atelier.dev/pool", "operator": "In", "values": ["gpu"]}
    assert term["matchExpressions"] == [pool]
    assert inside["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    assert "/dev/shm" in {one["mountPath"] for one in container["volumeMounts"]}
    kind = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4"]}
    wanted = pod(job(gpus=1, gpu_kind="NVIDIA-L4"))["affinity"]["nodeAffinity"]
    (term,) = wanted["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [pool, kind]
    without = pod(job())
    assert "affinity" not in without and "tolerations" not in without
    assert "nvidia.com/gpu" not in without["containers"][0]["resources"]["limits"]


def test_a_queue_admits_it() -> None:
    made = job(queue="gpu", priority="atelier-urgent")
    assert made["spec"]["suspend"] is True
    labels = made["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "gpu"
    assert labels["kueue.x-k8s.io/priority-class"] == "atelier-urgent"
    plain = job()
    assert "suspend" not in plain["spec"]
    assert not [label for label in plain["metadata"]["labels"] if "kueue" in label]


def test_no_job_starts_again_for_ever() -> None:
    """A node short of disk evicts as a drained one does, which counts for nothing."""
    volumes = {one["name"]: one for one in pod(job())["volumes"]}
    assert volumes["tmp"]["emptyDir"]["sizeLimit"] == "10Gi"
    assert job()["spec"]["activeDeadlineSeconds"] >= 86400
    assert job(deadline=3600)["spec"]["activeDeadlineSeconds"] == 3600
    choices = JobChoices(image="i", deadline=5, dry_run=True)
    assert choices.options(0).deadline == 5 * 3600


@pytest.mark.parametrize(
    ("cpu", "processes", "threads"),
    [
        ("4", 1, "4"),
        ("500m", 1, "1"),
        ("2500m", 1, "2"),
        ("4", 2, "2"),
        ("5", 2, "2"),
        ("1", 2, "1"),
    ],
)
def test_threads_are_the_same_on_every_node(cpu: str, processes: int, threads: str) -> None:
    spec = SPEC.model_copy(update={"processes": processes})
    (container,) = pod(job_object(spec.work("staging"), JobOptions(cpu=cpu)))["containers"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert env["OMP_NUM_THREADS"] == threads
    assert container["resources"]["requests"]["cpu"] == cpu


class Cluster:
    """An API server's answers, look by look: the Job, its pods, and their logs."""

    def __init__(self, looks: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> None:
        self.looks, self.logs = looks, dict[str, list[str]]()

    def get(self, path: str, name: str) -> dict[str, Any]:
        return self.looks[0][0]

    def list(self, path: str, query: Any) -> tuple[list[dict[str, Any]], str]:
        pods = self.looks[0][1]
        if len(self.looks) > 1 and pods is not None:
            self.looks.pop(0)
        return pods, "1"

    def log(self, path: str, pod: str, container: str, *, since: str | None) -> list[str]:
        return [line for line in self.logs[pod] if since is None or line[:19] >= since[:19]]


def running(name: str, made: str, **state: Any) -> dict[str, Any]:
    status = {"containerStatuses": [{"name": "job", "state": state}]} if state else {}
    about = {"name": name, "creationTimestamp": made}
    return {"metadata": about, "spec": {"nodeName": "n1"}, "status": status}


def test_following_survives_a_pod_and_ends_with_its_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    waiting = {"metadata": {"name": "j", "uid": "1", "labels": {}}, "spec": {"suspend": False}}
    failed = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "no"}
    ended = {**waiting, "status": {"conditions": [failed]}}
    first = running("a", "1", running={})
    gone = running("a", "1", terminated={"exitCode": 143})
    second = running("b", "2", terminated={"exitCode": 1})
    cluster = Cluster(
        [
            (waiting, []),
            (waiting, [first]),
            (waiting, [first]),  # asked again: nothing is told twice
            (waiting, [gone, running("b", "2")]),
            (ended, [gone, second]),
        ]
    )
    # A time without its trailing zeros is earlier than one with more digits.
    cluster.logs["a"] = ["2026-01-01T00:00:01.5Z one", "2026-01-01T00:00:01.51Z two"]
    cluster.logs["b"] = ["2026-01-01T00:00:03Z three"]
    told: list[str] = []
    outcome = Follower(cluster, "j", told.append).follow()  # type: ignore[arg-type]
    assert outcome == JobOutcome("j", False, 1, "PodFailurePolicy: no")
    assert [line for line in told if line in ("one", "two", "three")] == ["one", "two", "three"]
    assert told[0] == "waits for its pod"
    assert told.count("a: runs on n1") == 1
    assert told.count("a: ended with exit code 143") == 1


class Objects:
    """An API server that keeps Jobs and claims, and takes a Job's claim away with it."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], dict[str, Any]] = {}
        self.version = 0
        self.before_delete: Callable[[], object] = lambda: None

    def get(self, path: str, name: str) -> dict[str, Any]:
        if (path, name) not in self.kept:
            raise NotFound(name)
        return deepcopy(self.kept[path, name])

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        name = body["metadata"]["name"]
        if (path, name) in self.kept:
            raise Conflict(name)
        return self._put(path, body, uid=f"uid-{self.version}")

    def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        there = self.get(path, body["metadata"]["name"])
        if there["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise Conflict(path)
        return self._put(path, body, uid=there["metadata"]["uid"])

    def delete(self, path: str, name: str, *, version: str | None = None) -> None:
        before, self.before_delete = self.before_delete, lambda: None
        before()
        gone = self.kept[path, name]["metadata"]
        if version in (None, gone["resourceVersion"]):
            del self.kept[path, name]
            claim = self.kept.get((CLAIMS, name), {"metadata": {}})
            if gone["uid"] in [one["uid"] for one in claim["metadata"].get("ownerReferences", ())]:
                del self.kept[CLAIMS, name]

    def fail(self, name: str) -> None:
        failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
        body = {**self.get(JOBS, name), "status": {"conditions": [failed]}}
        self._put(JOBS, body, uid=body["metadata"]["uid"])

    def _put(self, path: str, body: dict[str, Any], uid: str) -> dict[str, Any]:
        self.version += 1
        about = {**body["metadata"], "uid": uid, "resourceVersion": str(self.version)}
        self.kept[path, about["name"]] = deepcopy({**body, "metadata": about})
        return self.get(path, about["name"])


def submitted(api: Objects, **options: Any) -> tuple[dict[str, Any], bool]:
    return submit_job(api, SPEC.work("staging"), JobOptions(**options))  # type: ignore[arg-type]


def owner(claim: dict[str, Any]) -> str:
    (one,) = claim["metadata"]["ownerReferences"]
    return str(one["uid"])


def test_what_a_failed_job_had_reached_is_what_the_next_one_goes_on_from() -> None:
    api = Objects()
    first, _ = submitted(api)
    name = first["metadata"]["name"]
    claim = api.get(CLAIMS, name)
    assert owner(claim) == first["metadata"]["uid"]
    api.fail(name)
    second, made = submitted(api)
    assert made and second["metadata"]["uid"] != first["metadata"]["uid"]
    kept = api.get(CLAIMS, name)
    assert kept["metadata"]["uid"] == claim["metadata"]["uid"]
    assert owner(kept) == second["metadata"]["uid"]
    # One that has no owner, as a submission that was cut off leaves it, is taken up.
    api.replace(CLAIMS, {**kept, "metadata": {**kept["metadata"], "ownerReferences": []}})
    again, made = submitted(api)
    assert not made and owner(api.get(CLAIMS, name)) == again["metadata"]["uid"]
    # It goes with its Job where the next one works elsewhere.
    api.fail(name)
    assert submitted(api, volume="shared")[1]
    assert (CLAIMS, name) not in api.kept


def test_a_namespace_that_is_missing_is_reported_at_once() -> None:
    """NotFound is a race only after the object was seen."""

    class Nowhere(Objects):
        asked = 0

        def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
            self.asked += 1
            raise NotFound("namespaces atelier-staging not found")

    api = Nowhere()
    with pytest.raises(NotFound):
        submitted(api)
    assert api.asked == 1


def test_two_who_submit_a_failed_job_again_get_one_job() -> None:
    api = Objects()
    first, _ = submitted(api)
    api.fail(first["metadata"]["name"])
    others: list[tuple[dict[str, Any], bool]] = []
    api.before_delete = lambda: others.append(submitted(api))
    mine, made = submitted(api)
    ((theirs, made_by_them),) = others
    assert (made, made_by_them) == (False, True)
    assert mine["metadata"]["uid"] == theirs["metadata"]["uid"]
    assert owner(api.get(CLAIMS, first["metadata"]["name"])) == mine["metadata"]["uid"]
