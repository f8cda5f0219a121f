"""A training Job's object, as the API server takes it.

A pod is only ever a place to run: what it has done lies in a claim (checkpoints, what it fetched)
and in MLflow. So a pod that is taken away (eviction, preemption, a node that goes) costs nothing
but the steps since its checkpoint, and counts as no failure. The exit codes are atelier.errors'.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atelier.jobs.spec import TrainingSpec

Object = dict[str, Any]

CONTAINER = "train"
ADAPTER_LABEL = "atelier.dev/adapter"
SPEC_ANNOTATION = "atelier.dev/spec"
HOME, POLICIES = "/var/lib/atelier", "/etc/atelier/policy"  # in the container
USER = 10001  # of the images
GRACE = 120  # seconds from SIGTERM to SIGKILL: a step, a checkpoint, and a word to MLflow

_FINAL = [1, 2]  # refused by a gate, bad input: trying again gives the same
_STOPPED = [143]  # with a checkpoint
_MLFLOW_KEYS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@dataclass(frozen=True)
class JobOptions:
    """Where and how a Job runs; nothing here changes what it makes."""

    namespace: str = "atelier-training"
    environment: str = "staging"  # whose policy judges: ConfigMap policy-<environment>
    image: str = "atelier-train:latest"
    gpus: int = 0
    queue: str | None = None  # Kueue's LocalQueue
    priority: str | None = None  # Kueue's WorkloadPriorityClass
    priority_class: str = "atelier-training"  # of the pod: it takes no running pod's place
    volume: str | None = None  # a claim that is there; None for one of the Job's own
    volume_size: str = "50Gi"
    volume_class: str | None = None
    cpu: str = "4"
    memory: str = "16Gi"
    retries: int = 6  # of failures that may pass: 10 s, 20 s, 40 s … between them
    ttl: int = 86400  # seconds that a finished Job stays to be looked at
    service_account: str = "atelier-training"
    mlflow_secret: str = "atelier-mlflow"
    hub_secret: str = "atelier-hub"
    pull_policy: str = "IfNotPresent"
    commit: str | None = None  # of the recipe, for the package's lineage
    env: Mapping[str, str] = field(default_factory=dict)


def training_job(spec: TrainingSpec, options: JobOptions) -> Object:
    """The Job that makes and judges the adapter."""
    name = spec.job_name(options.environment)
    queue = {"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {}
    if options.queue and options.priority:
        queue["kueue.x-k8s.io/priority-class"] = options.priority
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": options.namespace,
            "labels": {**_labels(spec), **queue},
            "annotations": {SPEC_ANNOTATION: spec.model_dump_json()},
        },
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": options.retries,
            "ttlSecondsAfterFinished": options.ttl,
            "podReplacementPolicy": "Failed",  # two pods would write into one run
            "podFailurePolicy": {"rules": _rules()},
            **({"suspend": True} if options.queue else {}),  # Kueue admits it
            "template": {
                "metadata": {"labels": _labels(spec)},
                "spec": _pod(spec, options, name),
            },
        },
    }


def training_claim(spec: TrainingSpec, options: JobOptions, job: Object) -> Object | None:
    """The claim of a Job that was created; it goes with the Job. None where `volume` names one."""
    if options.volume:
        return None
    made = job["metadata"]
    storage_class = {"storageClassName": options.volume_class} if options.volume_class else {}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": made["name"],
            "namespace": options.namespace,
            "labels": _labels(spec),
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": made["name"], "uid": made["uid"]}
            ],
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": options.volume_size}},
            **storage_class,
        },
    }


def _labels(spec: TrainingSpec) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "atelier-train",
        "app.kubernetes.io/part-of": "atelier",
        "app.kubernetes.io/managed-by": "atelier",
        ADAPTER_LABEL: spec.adapter,
    }


def _rules() -> list[Object]:
    """The first that fits decides; what none fits counts towards the retries."""
    codes = {"containerName": CONTAINER, "operator": "In"}
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    return [
        {"action": "Ignore", "onPodConditions": [disrupted]},
        {"action": "FailJob", "onExitCodes": {**codes, "values": _FINAL}},
        {"action": "Ignore", "onExitCodes": {**codes, "values": _STOPPED}},
    ]


def _pod(spec: TrainingSpec, options: JobOptions, name: str) -> Object:
    claim = {"claimName": options.volume or name}
    policy = {"name": f"policy-{options.environment}"}
    volumes: list[Object] = [
        {"name": "home", "persistentVolumeClaim": claim},
        {"name": "policy", "configMap": policy},
        {"name": "tmp", "emptyDir": {}},
    ]
    if options.gpus > 1:  # NCCL's processes exchange through shared memory
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    return {
        "restartPolicy": "Never",
        "serviceAccountName": options.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE,
        "priorityClassName": options.priority_class,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **(_gpu_pool() if options.gpus else {}),
        "containers": [_container(spec, options)],
        "volumes": volumes,
    }


def _gpu_pool() -> Object:
    """Only nodes of the GPU pool, whose taint keeps others away."""
    pool = {"key": "atelier.dev/pool", "operator": "In", "values": ["gpu"]}
    required = {"nodeSelectorTerms": [{"matchExpressions": [pool]}]}
    tolerated = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        "tolerations": [tolerated],
    }


def _container(spec: TrainingSpec, options: JobOptions) -> Object:
    requests: dict[str, str] = {"cpu": options.cpu, "memory": options.memory}
    gpus = {"nvidia.com/gpu": str(options.gpus)} if options.gpus else {}
    mounts: list[Object] = [
        {"name": "home", "mountPath": HOME},
        {"name": "policy", "mountPath": POLICIES, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if options.gpus > 1:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    command = ["python", "-m", "pipelines.job", "--policy", f"{POLICIES}/policy.yaml"]
    return {
        "name": CONTAINER,
        "image": options.image,
        "imagePullPolicy": options.pull_policy,
        "command": [*command, "--spec", spec.model_dump_json()],
        "env": _environment(options),
        "resources": {
            "requests": {**requests, **gpus},
            "limits": {"memory": options.memory, **gpus},
        },
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _environment(options: JobOptions) -> list[Object]:
    """Addresses and credentials come from Secrets of the namespace; no submission carries them."""
    plain = {"ATELIER_HOME": HOME, "HOME": "/tmp", "HF_HOME": f"{HOME}/cache/hub"}
    plain["OMP_NUM_THREADS"] = str(_threads(options.cpu))  # on any node: sums depend on them
    if options.commit:
        plain["ATELIER_GIT_COMMIT"] = options.commit
    plain |= options.env
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        _secret("MLFLOW_TRACKING_URI", options.mlflow_secret, optional=False),
        *(_secret(key, options.mlflow_secret) for key in _MLFLOW_KEYS),
        _secret("HF_TOKEN", options.hub_secret),
        _secret("WANDB_API_KEY", options.hub_secret),
    ]


def _threads(cpu: str) -> int:
    """Whole CPUs of a Kubernetes quantity, at least one."""
    return max(1, int(cpu[:-1]) // 1000 if cpu.endswith("m") else int(float(cpu)))


def _secret(key: str, name: str, *, optional: bool = True) -> Object:
    wanted = {"name": name, "key": key, "optional": optional}
    return {"name": key, "valueFrom": {"secretKeyRef": wanted}}
