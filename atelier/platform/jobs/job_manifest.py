"""The Kubernetes manifests of a Job and its volume claim.

A pod keeps no state: checkpoints and fetched files are in a claim, results are in MLflow. So a
disrupted pod (eviction, preemption, a removed node) loses only the work since its last checkpoint,
and does not count as a failure. The exit codes are those of atelier.errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from atelier.platform.jobs.spec import Spec

Object = dict[str, Any]

CONTAINER = "job"
SPEC_ANNOTATION = "atelier.dev/spec"
HOME = "/var/lib/atelier"  # in the container
USER = 10001  # of the images
GRACE = 120  # seconds from SIGTERM to SIGKILL: for a step, a checkpoint, and a call of MLflow
TMP = "10Gi"  # of the node's disk, for /tmp; large files go to the claim
HUB_KEYS = ("HF_TOKEN", "WANDB_API_KEY")

_FINAL = [1, 2]  # refused by a gate or a check, or bad input: a retry gives the same result
_STOPPED = [143]  # stopped by SIGTERM, after saving a checkpoint
_MLFLOW_KEYS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@dataclass(frozen=True)
class Work:
    """The work of a Job: the fields that differ between Jobs. Equal work has an equal name."""

    name: str  # of the Job and of its own claim; at most 63 characters
    kind: str  # app.kubernetes.io/name
    spec: Spec  # passed to the command as --spec
    command: Sequence[str]
    processes: int = 1  # number of processes that share the CPUs
    labels: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    hub_keys: Sequence[str] = ()  # of the hubs' Secret
    config_maps: Mapping[str, str] = field(default_factory=dict)  # by the folder of their mount


@dataclass(frozen=True)
class JobOptions:
    """The resources and the place of a Job.

    The options are not part of the spec. The number of threads (`cpu`), the kind of GPU and the
    libraries of the image affect rounding, so results of different options differ in the last bits.
    """

    namespace: str = "atelier-training"
    image: str = "atelier-train:latest"
    gpus: int = 0
    gpu_kind: str | None = None  # by the label of nodes; None for any GPU of the pool
    queue: str | None = None  # Kueue's LocalQueue
    priority: str | None = None  # Kueue's WorkloadPriorityClass
    priority_class: str = "atelier-training"  # of the pod, which preempts no running pod
    volume: str | None = None  # an existing claim; None for the Job's own
    volume_size: str = "50Gi"
    volume_class: str | None = None
    cpu: str = "4"
    memory: str = "16Gi"
    retries: int = 6  # of temporary failures, after 10 s, 20 s, 40 s …
    deadline: int = 72 * 3600  # seconds from its start, without suspensions
    ttl: int = 72 * 3600  # seconds that a finished Job and its claim stay: a weekend
    service_account: str = "atelier-training"
    mlflow_secret: str = "atelier-mlflow"
    hub_secret: str = "atelier-hub"
    pull_policy: str = "IfNotPresent"
    env: Mapping[str, str] = field(default_factory=dict)


def job_object(work: Work, options: JobOptions) -> Object:
    """Return the manifest of the Job that does the work."""
    queue = {"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {}
    if options.queue and options.priority:
        queue["kueue.x-k8s.io/priority-class"] = options.priority
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": work.name,
            "namespace": options.namespace,
            "labels": {**_labels(work), **queue},
            "annotations": {SPEC_ANNOTATION: work.spec.model_dump_json()},
        },
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": options.retries,
            # Evictions do not count as retries. Without a deadline, a Job that exhausts the disk
            # or memory of its nodes would start again without end.
            "activeDeadlineSeconds": options.deadline,
            "ttlSecondsAfterFinished": options.ttl,
            "podReplacementPolicy": "Failed",  # otherwise two pods could write into one folder
            "podFailurePolicy": {"rules": _rules()},
            **({"suspend": True} if options.queue else {}),  # Kueue admits it
            "template": {
                "metadata": {"labels": _labels(work)},
                "spec": _pod(work, options),
            },
        },
    }


def claim_object(work: Work, options: JobOptions, job: Object) -> Object | None:
    """Return the manifest of the claim of a created Job; None if `volume` names one.

    The claim is deleted with the Job, unless the Job failed and a new one takes the claim over (see
    submission.py).
    """
    if options.volume:
        return None
    metadata = job["metadata"]
    storage_class = {"storageClassName": options.volume_class} if options.volume_class else {}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": metadata["name"],
            "namespace": options.namespace,
            "labels": _labels(work),
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                }
            ],
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": options.volume_size}},
            **storage_class,
        },
    }


def _labels(work: Work) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": work.kind,
        "app.kubernetes.io/part-of": "atelier",
        "app.kubernetes.io/managed-by": "atelier",
        **work.labels,
    }


def _rules() -> list[Object]:
    """Return the failure rules. The first match applies; other failures count as retries."""
    codes = {"containerName": CONTAINER, "operator": "In"}
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    return [
        {"action": "Ignore", "onPodConditions": [disrupted]},
        {"action": "FailJob", "onExitCodes": {**codes, "values": _FINAL}},
        {"action": "Ignore", "onExitCodes": {**codes, "values": _STOPPED}},
    ]


def _pod(work: Work, options: JobOptions) -> Object:
    volumes: list[Object] = [
        {"name": "home", "persistentVolumeClaim": {"claimName": options.volume or work.name}},
        {"name": "tmp", "emptyDir": {"sizeLimit": TMP}},
    ]
    mounts: list[Object] = [
        {"name": "home", "mountPath": HOME},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    for folder, config_map in work.config_maps.items():
        name = PurePosixPath(folder).name
        volumes.append({"name": name, "configMap": {"name": config_map}})
        mounts.append({"name": name, "mountPath": folder, "readOnly": True})
    if options.gpus > 1:  # NCCL uses shared memory
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return {
        "restartPolicy": "Never",
        "serviceAccountName": options.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE,
        # The first process of a container ignores SIGTERM until it sets a handler, which a training
        # does after half a minute of imports. In a shared namespace it is not the first process.
        "shareProcessNamespace": True,
        "priorityClassName": options.priority_class,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **(_gpu_pool(options.gpu_kind) if options.gpus else {}),
        "containers": [_container(work, options, mounts)],
        "volumes": volumes,
    }


def _gpu_pool(kind: str | None) -> Object:
    """Return affinity and toleration for the tainted GPU nodes, limited to GPUs of `kind`."""
    wanted = {"atelier.dev/pool": "gpu"}
    if kind:
        wanted["nvidia.com/gpu.product"] = kind  # the label of NVIDIA's device plugin
    terms = [{"key": key, "operator": "In", "values": [value]} for key, value in wanted.items()]
    required = {"nodeSelectorTerms": [{"matchExpressions": terms}]}
    tolerated = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        "tolerations": [tolerated],
    }


def _container(work: Work, options: JobOptions, mounts: list[Object]) -> Object:
    requests: dict[str, str] = {"cpu": options.cpu, "memory": options.memory}
    gpus = {"nvidia.com/gpu": str(options.gpus)} if options.gpus else {}
    return {
        "name": CONTAINER,
        "image": options.image,
        "imagePullPolicy": options.pull_policy,
        "command": [*work.command, "--spec", work.spec.model_dump_json()],
        "env": _environment(work, options),
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


def _environment(work: Work, options: JobOptions) -> list[Object]:
    """Return the environment; addresses and credentials come from Secrets of the namespace."""
    plain = {"ATELIER_HOME": HOME, "HOME": "/tmp", "HF_HOME": f"{HOME}/cache/hub"}
    plain["OMP_NUM_THREADS"] = str(_threads(options.cpu, work.processes))  # independent of the node
    plain |= {**work.env, **options.env}
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        _secret("MLFLOW_TRACKING_URI", options.mlflow_secret, optional=False),
        *(_secret(key, options.mlflow_secret) for key in _MLFLOW_KEYS),
        *(_secret(key, options.hub_secret) for key in work.hub_keys),
    ]


def _threads(cpu: str, processes: int) -> int:
    """Return whole CPUs per process, at least one; `cpu` is the quantity for all."""
    cpus = float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
    return max(1, int(cpus / processes))


def _secret(key: str, name: str, *, optional: bool = True) -> Object:
    reference = {"name": name, "key": key, "optional": optional}
    return {"name": key, "valueFrom": {"secretKeyRef": reference}}
