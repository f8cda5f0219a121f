"""The training Job as the API server gets it, what decides about its name, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest

from atelier.errors import BadInput
from atelier.jobs import JobOptions, TrainingSpec, training_claim, training_job
from atelier.jobs.following import Follower, Outcome

HEX = "sha256:" + "0123456789abcdef" * 4
SPEC = TrainingSpec(adapter="thor-cat", recipe=HEX, base=HEX, datasets=(HEX,))


def job(**options: Any) -> dict[str, Any]:
    return training_job(SPEC, JobOptions(image="registry/atelier-train@sha256:1", **options))


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
        SPEC.model_copy(update={"held_back": HEX}).job_name("staging"),
    }
    assert len(names) == 5
    assert same.job_name("staging") == SPEC.job_name("staging")
    assert SPEC.job_name("staging").startswith("train-thor-cat-")
    longest = SPEC.model_copy(update={"adapter": "a" * 53}).job_name("staging")
    assert len(longest) <= 63 and longest.split("-")[-1] != SPEC.job_name("staging").split("-")[-1]


def test_a_spec_is_read_strictly() -> None:
    with pytest.raises(BadInput, match="--spec: recipe: Field required"):
        TrainingSpec.parse('{"adapter": "thor-cat"}')
    with pytest.raises(BadInput, match="--spec: steps: Extra"):
        TrainingSpec.parse(SPEC.model_dump_json()[:-1] + ', "steps": 3}')


def test_a_bad_recipe_fails_at_once_and_a_pod_that_was_taken_away_counts_for_nothing() -> None:
    spec = job()["spec"]
    assert spec["podReplacementPolicy"] == "Failed"
    assert (spec["completions"], spec["parallelism"]) == (1, 1)
    assert spec["backoffLimit"] >= 3  # what may pass: exit code 3, and what nobody foresaw
    assert spec["ttlSecondsAfterFinished"] > 0
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


def test_the_checkpoint_outlives_the_pod() -> None:
    made = job()
    name = made["metadata"]["name"]
    volumes = {one["name"]: one for one in pod(made)["volumes"]}
    assert volumes["home"]["persistentVolumeClaim"]["claimName"] == name
    assert volumes["policy"]["configMap"]["name"] == "policy-staging"
    options = JobOptions(volume_size="20Gi", volume_class="fast")
    claim = training_claim(SPEC, options, {"metadata": {"name": name, "uid": "42"}})
    assert claim is not None
    assert claim["spec"]["resources"]["requests"]["storage"] == "20Gi"
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["metadata"]["ownerReferences"][0]["uid"] == "42"  # it goes with the Job
    own = {one["name"]: one for one in pod(job(volume="shared"))["volumes"]}
    assert own["home"]["persistentVolumeClaim"]["claimName"] == "shared"
    assert training_claim(SPEC, JobOptions(volume="shared"), made) is None


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


@pytest.mark.parametrize(("cpu", "threads"), [("4", "4"), ("500m", "1"), ("2500m", "2")])
def test_threads_are_the_same_on_every_node(cpu: str, threads: str) -> None:
    (container,) = pod(job(cpu=cpu))["containers"]
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
    status = {"containerStatuses": [{"name": "train", "state": state}]} if state else {}
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
    assert outcome == Outcome("j", False, 1, "PodFailurePolicy: no")
    assert [line for line in told if line in ("one", "two", "three")] == ["one", "two", "three"]
    assert told[0] == "waits for its pod"
    assert told.count("a: runs on n1") == 1
    assert told.count("a: ended with exit code 143") == 1
